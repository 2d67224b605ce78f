"""What goes to the language model and what comes back: prompt templates by stage, and replies read as JSON or as code.

Templates are `prompts/<name>.md` (jinja2). A template's version is a hash of its text, which goes into the provenance of every
environment. Values are inserted, never rendered: a question that contains `{{ ... }}` stays text.
A reply that cannot be read is `Rejected` with a message that tells the model what to mend.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from pydantic import BaseModel, ValidationError

from env_construction.author import Rejected
from env_construction.llm_endpoint import Reply

PROMPTS = Path(__file__).with_name("prompts")
_SHOWN_ERRORS = 6
_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"```[ \t]*([A-Za-z0-9]*)[ \t]*\r?\n(.*?)```", re.DOTALL)

Model = TypeVar("Model", bound=BaseModel)


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(PROMPTS),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """The prompt `prompts/<template>.md` with `values`. Raises jinja2.UndefinedError where one is missing."""
    text = _templates().get_template(f"{template}.md").render(**values)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


@lru_cache(maxsize=1)
def prompt_versions() -> dict[str, str]:
    """{template: first 12 hexadecimal digits of the SHA-256 of its text}."""
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in sorted(PROMPTS.glob("*.md"))}


def as_data(value: Any) -> str:
    """JSON text for a prompt: what stands in it cannot be mistaken for the prompt's own lines."""
    return json.dumps(value, ensure_ascii=False)


def text_of(reply: Reply) -> str:
    """What the model said, thinking left out. Raises Rejected for a refusal, a reply that was cut off, and silence."""
    if reply.refusal or reply.finish == "content_filter":
        raise Rejected("reply_refused", f"the model refused: {reply.refusal or 'content filter'}"[:300])
    if reply.finish == "length":
        raise Rejected("reply_truncated", "the reply was cut off at its greatest length: write a shorter one")
    text = _THINKING.sub("", reply.text).strip()
    if not text:
        raise Rejected("reply_empty", "the reply was empty")
    return text


def read_model(reply: Reply, model: type[Model]) -> Model:
    """The reply as `model`. Raises Rejected with what is wrong, field by field."""
    text = text_of(reply)
    fenced = next((body for language, body in _FENCE.findall(text) if language.lower() in ("", "json")), None)
    body = fenced if fenced is not None and "{" in fenced else text
    start, end = body.find("{"), body.rfind("}")
    if start < 0 or end < start:
        raise Rejected("reply_not_json", "the reply holds no JSON object")
    try:
        value = json.loads(body[start : end + 1], strict=False, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Rejected("reply_not_json", f"the reply is no valid JSON: {error}") from None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, item['loc'])) or 'the object'}: {item['msg']}"
            for item in error.errors()[:_SHOWN_ERRORS]
        ]
        raise Rejected("reply_schema", "; ".join(found)) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def read_source(reply: Reply, name: str) -> str:
    """The Python source in the reply: its fenced block that defines `name`, or all of it without a fence. Raises Rejected."""
    text = text_of(reply)
    blocks = [body for language, body in _FENCE.findall(text) if language.lower() in ("", "python", "py")]
    source = next((body for body in blocks if f"def {name}" in body), text if not blocks else blocks[0])
    if "def " not in source:
        raise Rejected("reply_not_code", f"the reply holds no Python function {name}")
    return source.strip() + "\n"
