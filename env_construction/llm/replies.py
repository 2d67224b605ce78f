"""What goes to the language model and what comes back: prompt templates by stage, and replies read as JSON or as code.

Templates are `prompts/<name>.md` (jinja2). A template's version is a hash of its text, which goes into the provenance
of every environment. Values are inserted, never rendered: a question that contains `{{ ... }}` stays text.
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

from env_construction.building.author import Rejected
from env_construction.llm.endpoint import Reply
from env_construction.replies.reply_text import json_objects, python_code, without_thinking

PROMPTS = Path(__file__).with_name("prompts")
_SHOWN_ERRORS = 6

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
    text = without_thinking(reply.text)
    if not text:
        thought = " but thinking: write the answer behind </think>" if reply.text.strip() else ""
        raise Rejected("reply_empty", f"the reply was empty{thought}")
    return text


def read_model(reply: Reply, model: type[Model]) -> Model:
    """The last JSON object of the reply that is a `model`. Raises Rejected with what is wrong, field by field."""
    problem: Rejected | None = None
    for value in reversed(json_objects(text_of(reply))):
        if isinstance(value, ValueError):
            problem = Rejected("reply_not_json", f"the reply is no valid JSON: {value}")
            continue
        try:
            return model.model_validate(value)
        except ValidationError as error:
            found = [
                f"{'.'.join(map(str, item['loc'])) or 'the object'}: {item['msg']}"
                for item in error.errors()[:_SHOWN_ERRORS]
            ]
            # an object behind a broken one is likely a part of it: the broken one is what to mend
            problem = problem or Rejected("reply_schema", "; ".join(found))
    raise problem or Rejected("reply_not_json", "the reply holds no JSON object")


def read_source(reply: Reply, name: str) -> str:
    """The Python source in the reply that defines `name`, as far as there is one. Raises Rejected."""
    source = python_code(text_of(reply), (name,))
    if source is None or "def " not in source:
        raise Rejected("reply_not_code", f"the reply holds no Python function {name}")
    return source.strip() + "\n"
