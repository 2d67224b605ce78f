"""Prompts: the one place where messages and tools become text, by the model's own chat template.

Collection, RL prompts and evaluation all call `render_prompt`, so that a policy is trained on exactly the text that it is
measured on. A prompt file carries the hash of the template that made it (`template_sha256`).

Source: paper/README.md, "Training"; issue: prompts, templates, thinking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from env_construction.jsonl import BadInput
from train.chat_templates import CHATML_TEMPLATE


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a checkpoint folder (or hub name), padding on the left.

    Raises BadInput if there is no tokenizer, no chat template, or one that has no room for tools (make_room_for_tools).
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder}: expected a model folder with a tokenizer ({_first_line(error)})") from None
    if not tokenizer.chat_template:
        raise BadInput(f"{folder}: the tokenizer has no chat template; use an instruction-tuned model")
    make_room_for_tools(tokenizer, folder)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def make_room_for_tools(tokenizer: Any, name: str | Path) -> None:
    """Replace a ChatML template without room for tools by CHATML_TEMPLATE: no policy would ever see its tools otherwise.

    Raises BadInput for a template of another format that has none.
    """
    template = chat_template(tokenizer)
    if "tools" in template:
        return
    if "<|im_start|>" not in template:
        raise BadInput(f"{name}: the chat template has no room for tools; give the tokenizer one that has")
    tokenizer.chat_template = CHATML_TEMPLATE


def chat_template(tokenizer: Any) -> str:
    """The text of the template that is used when tools are given."""
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("tool_use") or template["default"]
    return str(template)


def template_sha256(tokenizer: Any) -> str:
    """SHA-256 of the chat template: prompts of one template must not train a model with another."""
    return hashlib.sha256(chat_template(tokenizer).encode("utf-8")).hexdigest()


def has_thinking(tokenizer: Any) -> bool:
    """Whether the template knows a thinking mode. Qwen3's does, Qwen2.5's does not."""
    return "enable_thinking" in chat_template(tokenizer)


def require_thinking(tokenizer: Any, name: str, thinking: bool) -> None:
    """Raises BadInput if thinking is asked of a model that has no thinking mode."""
    if thinking and not has_thinking(tokenizer):
        raise BadInput(
            f"{name} has no thinking mode (its chat template does not know enable_thinking): leave thinking off"
        )


def render_prompt(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], thinking: bool
) -> str:
    """The prompt that a model continues: `messages` so far with `tools` (OpenAI format), the assistant's turn opened.

    Lone surrogates, which a model can write as JSON escapes, become `?`: tokenizers take valid Unicode only. Where the tokenizer
    composes letters and accents (Qwen's do, NFC), so does the prompt: the tokens are the same, and they decode to the prompt again,
    by which the reward finds the response in a query.
    """
    text = tokenizer.apply_chat_template(
        list(messages),
        tools=list(tools) or None,
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=thinking,
    )
    text = text.encode("utf-8", "replace").decode("utf-8")
    normalizer: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    if normalizer is None or normalizer.normalize_str(_DECOMPOSED) != _COMPOSED:
        return text  # other normalizers are steps that decoding undoes, such as writing a space as another character
    return normalizer.normalize_str(text)


def feedback_text(tokenizer: Any, tool_messages: Sequence[Mapping[str, Any]], thinking: bool) -> str:
    """What the template writes after an assistant's turn: its end-of-turn token, the tools' messages, the next turn opened.

    For playing an episode token by token: this text is appended to the turn's own tokens, which are never rendered again.
    Raises BadInput if the template does not write a turn's content as it is.
    """
    conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _TURN}, *tool_messages]
    _, turn, feedback = render_prompt(tokenizer, conversation, [], thinking).partition(_TURN)
    if not turn:
        raise BadInput("the chat template does not show an assistant's content: episodes cannot be played with it")
    return feedback


def check_feedback(tokenizer: Any, name: str, thinking: bool) -> None:
    """Raises BadInput unless `feedback_text` is how a whole conversation with tools, calls and thinking goes on."""
    whole = render_prompt(tokenizer, _probe(thinking), _PROBE_TOOLS, thinking)
    if not whole.endswith(feedback_text(tokenizer, _probe(thinking)[2:], thinking)):
        raise BadInput(
            f"{name}: its chat template renders tool feedback by what came before: episodes cannot be played with it"
        )


def dropped_when_rendered_again(tokenizer: Any, thinking: bool) -> str:
    """What the template leaves out of an opened turn once the conversation has gone on; empty if it only appends.

    Qwen3 without thinking opens a turn with an empty thinking block and leaves it out of every earlier turn. Rendered
    prompts (collection, evaluation) then lack it, and an episode played token by token keeps it.
    """
    probe = _probe(thinking)
    opened = render_prompt(tokenizer, probe[:1], _PROBE_TOOLS, thinking)
    longer = render_prompt(tokenizer, probe, _PROBE_TOOLS, thinking)
    same = next(
        (place for place, pair in enumerate(zip(opened, longer, strict=False)) if pair[0] != pair[1]), len(opened)
    )
    return opened[same:]


_DECOMPOSED, _COMPOSED = " e\u0301", " \u00e9"
_TURN = "Turn-3c9e"
_PROBE_TOOLS = [
    {"type": "function", "function": {"name": "probe", "description": "?", "parameters": {"type": "object"}}}
]


def _probe(thinking: bool) -> list[dict[str, Any]]:
    """A question, a turn with content (and thinking) and two calls, and the answers of both."""
    call = {"type": "function", "function": {"name": "probe", "arguments": {}}}
    turn: dict[str, Any] = {"role": "assistant", "content": _TURN, "tool_calls": [call, call]}
    if thinking:
        turn["reasoning_content"] = "Thought"
    answers = [{"role": "tool", "name": "probe", "content": content} for content in ("one", "two")]
    return [{"role": "user", "content": "?"}, turn, *answers]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
