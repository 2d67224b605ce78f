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


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a checkpoint folder (or hub name), padding on the left.

    Raises BadInput if there is no tokenizer or no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder}: expected a model folder with a tokenizer ({_first_line(error)})") from None
    if not tokenizer.chat_template:
        raise BadInput(f"{folder}: the tokenizer has no chat template; use an instruction-tuned model")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


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

    Lone surrogates, which a model can write as JSON escapes, become `?`: tokenizers take valid Unicode only.
    """
    text = tokenizer.apply_chat_template(
        list(messages),
        tools=list(tools) or None,
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=thinking,
    )
    return text.encode("utf-8", "replace").decode("utf-8")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
