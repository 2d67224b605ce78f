"""What an OpenAI-compatible server sends back, checked where it enters: policies, simulated users and the LLM author
all ask here.

The openai client builds its objects without checking them, so that a page, a null or an object in the wrong place would
surface far from here. `ask` sends one request and reads the bytes of the answer itself. What servers are known to do is
read: content as a text, as parts or null; thinking in a field or in parts of its own; arguments as JSON text, as an
object or null; token counts that are missing; lists that are null. What is no chat completion is a `BadReply` with the
server's own words, and says whether another try may help: a rate limit or an overload can come with status 200.

Example, as all three users do it:
    Retrying(retry=retry_if_exception(may_pass), ...)(ask, client, model="m", messages=[...])
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

import openai
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from env_construction.replies.message_content import MessageContent, read_content

_PASSING_ERRORS = (  # an endpoint's faults that may be gone at the next try
    openai.APIConnectionError,
    openai.APITimeoutError,
    openai.RateLimitError,
    openai.InternalServerError,
    openai.ConflictError,
)
_PASSING_STATUSES = frozenset(map(str, (408, 409, 425, 429, *range(500, 600))))
_PASSING_WORDS = re.compile(
    r"rate.?limit|too many requests|overload|unavailable|capacity|try again|temporar|time[d_ -]?out|timeout|server[_ ]error"
    r"|internal[_ ]error",
    re.IGNORECASE,
)
_SHOWN = 300  # characters of the server's words
_CUT_OFF = ("length", "max_tokens", "model_length")  # finish reasons


class BadReply(Exception):
    """The server answered with status 200, and it is no chat completion. The message says what it is, in the server's
    words.

    `passing`: another try may help.
    """

    def __init__(self, words: str, passing: bool = False) -> None:
        super().__init__(words)
        self.passing = passing


def _arguments_text(value: Any) -> str:
    """Arguments as JSON text. No arguments are written as null, as nothing, and as the text null."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "{}" if text.strip() in ("", "null") else text


def _list(value: Any) -> Any:
    return [] if value is None else value


def _or_unknown(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """A count that cannot be read is unknown: it never costs a reply."""
    try:
        return read(value)
    except ValidationError:
        return None


Content = Annotated[MessageContent, BeforeValidator(read_content)]
Count = Annotated[Annotated[int, Field(ge=0, le=2**53)] | None, WrapValidator(_or_unknown)]


class CalledFunction(BaseModel):
    """The function of a call. `arguments` is the JSON text that the model wrote, which may be no JSON."""

    name: str
    arguments: Annotated[str, BeforeValidator(_arguments_text)] = "{}"


class _Call(BaseModel):
    function: CalledFunction


class ReplyMessage(BaseModel):
    """The message of a reply. Read `text`, `thinking`, `calls` and `refusal`; the other fields are as servers send
    them.
    """

    content: Content = MessageContent()
    reasoning_content: Content = MessageContent()
    reasoning: Content = MessageContent()
    refusal: str | None = None
    tool_calls: Annotated[list[_Call], BeforeValidator(_list)] = []
    function_call: CalledFunction | None = None

    @property
    def text(self) -> str:
        """What the model says, without its thinking; its refusal where it says nothing else."""
        return self.content.text or self.refusal or ""

    @property
    def thinking(self) -> str:
        field = self.reasoning_content if any(self.reasoning_content) else self.reasoning
        parts = (field.thinking, field.text, self.content.thinking)
        return "\n".join(part for part in parts if part)

    @property
    def calls(self) -> list[CalledFunction]:
        """The calls that the server read out of the model's turn, in order."""
        found = [call.function for call in self.tool_calls]
        return found or ([self.function_call] if self.function_call else [])


class Completion(BaseModel):
    """One chat completion. `finish`: the server's finish reason, or empty; token counts are None where it does not
    say.
    """

    message: ReplyMessage
    finish: str = ""
    prompt_tokens: Count = None
    completion_tokens: Count = None

    @property
    def cut_off(self) -> bool:
        """Did the reply end at the limit of tokens?"""
        return self.finish.lower() in _CUT_OFF


def ask(client: openai.OpenAI, **fields: Any) -> Completion:
    """Send one request. Raises BadReply, and openai.OpenAIError for other statuses than 200 and broken connections."""
    return read_reply(client.chat.completions.with_raw_response.create(**fields).content)


def may_pass(error: BaseException) -> bool:
    """May the same request succeed at another try? For tenacity's retry_if_exception."""
    return isinstance(error, _PASSING_ERRORS) or (isinstance(error, BadReply) and error.passing)


def words_of(error: BaseException, key: str = "") -> str:
    """What to tell about a request that failed, on one line: the status and the server's own words, without `key`."""
    if isinstance(error, openai.APIStatusError):
        body = error.body if error.body else error.response.text
        said = _error_text(body) if not isinstance(body, str) else _page_text(body)
        text = f"{type(error).__name__}: status {error.status_code}: {said or error.message}"
    elif isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
        text = f"{type(error).__name__}: {error} ({error.__cause__})"
    else:
        text = str(error) if isinstance(error, BadReply) else f"{type(error).__name__}: {error}"
    return _short(text.replace(key, "[key]") if key else text)


def read_reply(body: bytes) -> Completion:
    """The completion in the body of an answer with status 200. Raises BadReply."""
    try:
        text = body.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise BadReply(f"the server sent no UTF-8 ({error.reason} at byte {error.start})", passing=True) from None
    if not text:
        raise BadReply("the server sent nothing", passing=True)
    if text.startswith("<"):
        raise BadReply(f"no API at this URL: the server sent a page, {_short(_page_text(text))!r}; check the base URL")
    if text.startswith(("data:", "event:")):
        raise BadReply(f"the server streams its reply, which was not asked for: {_short(text)!r}")
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        raise BadReply(f"the server sent no JSON: {_short(text)!r}", passing=True) from None
    if isinstance(payload, list) and len(payload) == 1:  # some servers put an error into a list
        payload = payload[0]
    if not isinstance(payload, dict):
        raise BadReply(f"the server sent no JSON object: {_short(text)!r}")
    choices = payload.get("choices")
    if payload.get("error") or not choices:
        raise _error_reply(payload)
    choice = choices[0] if isinstance(choices, list) else None
    if not isinstance(choice, dict):
        raise _odd_reply("choices", "expected a list of objects", text)
    if choice.get("error") or choice.get("finish_reason") == "error":
        raise _error_reply(choice)
    return _completion(choice, payload.get("usage"), text)


def _completion(choice: Mapping[str, Any], usage: Any, text: str) -> Completion:
    finish = choice.get("finish_reason")
    counts = {key: usage.get(key) for key in ("prompt_tokens", "completion_tokens")} if isinstance(usage, dict) else {}
    try:
        made = Completion.model_validate(
            {"message": choice.get("message"), "finish": finish if isinstance(finish, str) else "", **counts}
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in ("choices", 0, *first["loc"]))
        wanted = first["msg"].removeprefix("Value error, ").partition(" or instance of")[0]
        raise _odd_reply(place, wanted, text) from None
    except RecursionError:
        raise _odd_reply("choices.0.message", "expected arguments that are not nested so deep", text) from None
    if made.finish == "content_filter" and not (made.message.text or made.message.calls):
        raise BadReply("the server withheld the reply (finish_reason content_filter)")
    return made


def _odd_reply(place: str, wanted: str, text: str) -> BadReply:
    return BadReply(f"no chat completion: key {place!r}: {wanted}; the server sent {_short(text)}")


def _error_reply(payload: Mapping[str, Any]) -> BadReply:
    """The error that the server reports in place of a completion; `payload` is the whole answer, or its choice."""
    error = payload.get("error") or payload
    sources = [source for source in (error, payload) if isinstance(source, Mapping)]
    codes = {str(source.get(key)) for source in sources for key in ("code", "status", "status_code")}
    passing = bool(codes & _PASSING_STATUSES) or payload.get("finish_reason") == "error"
    passing = passing or bool(_PASSING_WORDS.search(json.dumps(error, ensure_ascii=False)))
    return BadReply(f"the server sent no completion: {_short(_error_text(error))}", passing)


def _error_text(payload: Any) -> str:
    """The words in an error's JSON; all of it where they stand in no usual place."""
    if isinstance(payload, str):
        return payload
    if isinstance(payload, Mapping):
        for key in ("error", "message", "detail", "msg"):
            if payload.get(key):
                words = _error_text(payload[key])
                codes = [str(payload[name]) for name in ("code", "type") if isinstance(payload.get(name), (int, str))]
                return f"{words} ({', '.join(codes)})" if codes and key == "message" else words
    return json.dumps(payload, ensure_ascii=False)


def _page_text(text: str) -> str:
    """The words of an HTML page, or the text as it is."""
    return re.sub(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)


def _short(text: str) -> str:
    """One line that any terminal can show."""
    line = " ".join(text.split())[:_SHOWN]
    return "".join(character if character.isprintable() else "?" for character in line)
