"""Render prompts: the only place where messages and tools become text, with the model's chat template.

Collection, RL prompts and evaluation all call `render_prompt`, so a policy is trained and evaluated on the same text. A
prompt file has the hash of its template (`template_sha256`). A template may reject or drop parts of an episode, so it
is tested when a tokenizer is loaded (`check_template`).

Source: paper/README.md, "Training"; issue: prompts, templates, thinking.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment
from reward.tool_calls import with_call_ids
from train.policies.chat_templates import CHATML_TEMPLATE

_READS_IDS = re.compile(r"""tool_call_id|\.id\b|['"]id['"]""")


class TemplateRefuses(BadInput):
    """The chat template cannot render a conversation. The message has the template's reason."""


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a checkpoint folder (or hub name), padding on the left.

    Raises BadInput if there is no tokenizer or no chat template, or if the template does not support tools
    (make_room_for_tools) or conversations with them (check_template).
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder}: expected a model folder with a tokenizer ({_first_line(error)})") from None
    if not tokenizer.chat_template:
        raise BadInput(f"{folder}: the tokenizer has no chat template; use an instruction-tuned model")
    make_room_for_tools(tokenizer, folder)
    check_template(tokenizer, folder)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def make_room_for_tools(tokenizer: Any, name: str | Path) -> None:
    """Replace a ChatML template without tool support by CHATML_TEMPLATE. Otherwise the policy would not see its tools.

    Raises BadInput for a template of another format without tool support.
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
        template = template.get("tool_use") or template.get("default") or ""
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

    Lone surrogates, which a model can write as JSON escapes, become `?`, because tokenizers accept only valid Unicode.
    If the tokenizer normalizes to NFC (Qwen's do), the prompt is normalized too. The tokens are the same and decode to
    exactly this prompt, which the reward needs to find the response in a query. Templates that read call ids get
    generated ids. Raises TemplateRefuses.
    """
    try:
        text = tokenizer.apply_chat_template(
            with_call_ids(messages) if _READS_IDS.search(chat_template(tokenizer)) else list(messages),
            tools=list(tools) or None,
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=thinking,
        )
    except Exception as error:  # a template is a program of its own, which may fail in any way
        raise TemplateRefuses(
            f"the chat template cannot render these messages and tools ({_first_line(error)})"
        ) from None
    text = text.encode("utf-8", "replace").decode("utf-8")
    normalizer: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    if normalizer is None or normalizer.normalize_str(_DECOMPOSED) != _COMPOSED:
        return text  # other normalizers are steps that decoding undoes, such as writing a space as another character
    return normalizer.normalize_str(text)


def check_template(tokenizer: Any, name: str | Path, system: bool = False) -> None:
    """Raises BadInput, naming what fails, unless the template renders all of an episode; `system`: system messages too.

    Otherwise a template could reject a conversation, or drop parts of it, in the middle of a run.
    """
    for what, messages, shown in _served_conversations(system):
        for thinking in {False, has_thinking(tokenizer)}:
            try:
                text = render_prompt(tokenizer, messages, _PROBE_TOOLS, thinking)
            except TemplateRefuses as error:
                raise BadInput(f"{name} cannot be used: with {what}, {error}; use another model or template") from None
            if missing := [mark for mark in shown if mark not in text]:
                raise BadInput(
                    f"{name} cannot be used: with {what}, the chat template leaves out "
                    f"{', '.join(map(repr, missing))}; use another model or template"
                )


def has_system_message(state: Environment) -> bool:
    """Does the conversation need a template that serves system messages?"""
    return any(message.get("role") == "system" for message in state.messages)


def _served_conversations(system: bool) -> Iterator[tuple[str, list[dict[str, Any]], list[str]]]:
    """What a template must support: a description, a conversation, and the text that its prompt must contain."""
    question = {"role": "user", "content": "Question-1"}
    shown = ["probe", "Question-1", "Argument-1", "Answer-1"]
    yield "a question and a tool", [question], shown[:2]
    yield "a call and its answer", [question, *_called(1)], shown
    two = [question, *_called(1, 2)]
    shown = [*shown, "Argument-2", "Answer-2"]
    yield "two calls in one turn", two, shown
    longer = [*two, *_called(3)]
    shown = [*shown, "Argument-3", "Answer-3"]
    yield "calls in two turns", longer, shown
    if system:
        yield "a system message", [{"role": "system", "content": "System-1"}, *longer], [*shown, "System-1"]


def _called(*numbers: int) -> list[dict[str, Any]]:
    """A turn with a call for each number, and the answers."""
    return [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"type": "function", "function": {"name": "probe", "arguments": {"value": f"Argument-{number}"}}}
                for number in numbers
            ],
        },
        *({"role": "tool", "name": "probe", "content": f"Answer-{number}"} for number in numbers),
    ]


def feedback_text(tokenizer: Any, tool_messages: Sequence[Mapping[str, Any]], thinking: bool) -> str:
    """The template's text after an assistant's turn: end-of-turn token, tool messages, opening of the next turn.

    Episodes played token by token append this text to the turn's own tokens, which are never rendered again.
    Raises BadInput if the template does not write a turn's content as it is.
    """
    conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _TURN}, *tool_messages]
    _, turn, feedback = render_prompt(tokenizer, conversation, [], thinking).partition(_TURN)
    if not turn:
        raise BadInput("the chat template does not show an assistant's content: episodes cannot be played with it")
    return feedback


def check_feedback(tokenizer: Any, name: str, thinking: bool) -> None:
    """Raises BadInput unless a complete conversation with tools, calls and thinking ends with `feedback_text`."""
    try:
        whole = render_prompt(tokenizer, _probe(thinking), _PROBE_TOOLS, thinking)
        feedback = feedback_text(tokenizer, _probe(thinking)[2:], thinking)
    except TemplateRefuses as error:
        raise BadInput(f"{name}: episodes cannot be played with it: {error}") from None
    if not whole.endswith(feedback):
        raise BadInput(
            f"{name}: its chat template renders tool feedback by what came before: episodes cannot be played with it"
        )


def dropped_when_rendered_again(tokenizer: Any, thinking: bool) -> str:
    """The text that the template drops from an opened turn in a longer conversation; empty if it only appends.

    Qwen3 without thinking opens a turn with an empty thinking block and drops it from every earlier turn. Rendered
    prompts (collection, evaluation) then lack it, but an episode played token by token keeps it.
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
    """The first line of an error's text, with its type where that says more than the text."""
    line = (str(error).strip().splitlines() or [""])[0][:200]
    return line if isinstance(error, (OSError, TemplateError)) else f"{type(error).__name__}: {line}"
