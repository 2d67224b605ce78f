"""Ask a language model behind an OpenAI-compatible endpoint, at most once for the same request.

The key comes from the environment (OPENAI_API_KEY) and is never written or printed. Rate limits, 5xx answers, broken
connections and timeouts are retried with growing delays. All threads obey `Retry-After` together. A lasting failure is
an `AuthorFault`, which says nothing about the model. If the server rejects the key or model, the user must fix that:
BadInput. If a server rejects an optional field, requests go without it. A reply that is not a completion
(`server_replies.py`) is a fault, reported in the server's own words.

Replies are stored on disk under the hash of the request (model, endpoint, messages, temperature, seed, length). So a
rerun costs nothing, whatever interrupted the first run. Only replies with content are stored, and each one is checked
again when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
from pydantic import TypeAdapter
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from env_construction.building.author import AuthorFault, Rejected
from env_construction.environment.jsonl import BadInput
from env_construction.llm.ledger import Ledger
from env_construction.replies.server_replies import BadReply, Completion, ReplyMessage, ask, may_pass, words_of

KEY_VARIABLE = "OPENAI_API_KEY"
LONGEST_RETRY_AFTER_S = 600.0
_OPTIONAL_FIELDS = ("response_format", "seed", "temperature")
_ABOUT_THIS_REQUEST = (
    "content_filter",
    "content policy",
    "content_policy",
    "context length",
    "context_length",
    "too long",
)


@dataclass(frozen=True)
class Reply:
    """The model's reply. `finish`: the API's reason ("stop", "length", "content_filter"); `refusal`: its text."""

    text: str
    finish: str = "stop"
    refusal: str = ""

    @property
    def says_something(self) -> bool:
        """Whether the reply has content. Unexplained empty replies are requested again: the server may be the cause."""
        return bool(self.text.strip() or self.refusal) or self.finish != "stop"


@dataclass(frozen=True)
class EndpointOptions:
    """Where and how to send requests. Times in seconds; `attempts` includes the first one."""

    base_url: str
    model: str
    temperature: float = 0.7
    max_tokens: int = 8192
    timeout_s: float = 180.0
    attempts: int = 6
    longest_wait_s: float = 60.0

    @property
    def host(self) -> str:
        """Only host and port, because a base URL may contain a password."""
        parts = urlsplit(self.base_url)
        return f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"


class Endpoint:
    """Sends requests. Thread-safe. `cache` None sends every request. Raises BadInput for an invalid base URL."""

    def __init__(self, options: EndpointOptions, ledger: Ledger, cache: Path | None = None) -> None:
        if not options.base_url.startswith(("http://", "https://")):
            raise BadInput(f"--base-url {options.base_url!r}: expected a URL such as http://localhost:8000/v1")
        self.options = options
        self.ledger = ledger
        self._cache = cache
        self._key = os.environ.get(KEY_VARIABLE) or "none"
        self._client = openai.OpenAI(
            base_url=options.base_url, api_key=self._key, timeout=options.timeout_s, max_retries=0
        )
        self._lock = threading.Lock()
        self._left_out: set[str] = set()
        self._length_field = "max_tokens"
        self._not_before = 0.0

    def ask(self, stage: str, messages: Sequence[dict[str, str]], seed: int, as_json: bool) -> Reply:
        """The model's reply to `messages`. `stage` names the account in the ledger.

        Raises BudgetSpent, AuthorFault, Rejected("request_refused") if the server refuses these messages, and BadInput
        if it rejects the key or the model.
        """
        request = {
            "endpoint": self.options.host,
            "model": self.options.model,
            "messages": list(messages),
            "temperature": self.options.temperature,
            "max_tokens": self.options.max_tokens,
            "seed": seed,
            "json": as_json,
        }
        path = self._cache_path(request)
        kept = _read_reply(path) if path else None
        if kept:
            self.ledger.count_cached(stage)
            return kept
        # Two bytes per token overestimates any text. Once the true number is known, the difference is released.
        size = len(json.dumps(request["messages"], ensure_ascii=False).encode("utf-8", "surrogatepass"))
        reserved = self.ledger.reserve(size // 2 + 1, self.options.max_tokens)
        try:
            completion = self._complete(stage, request)
            reply = _reply_of(completion)
        except BaseException:
            self.ledger.release(stage, reserved)
            raise
        prompt_tokens, completion_tokens = completion.prompt_tokens, completion.completion_tokens
        self.ledger.settle(
            stage,
            reserved,
            size // 4 if prompt_tokens is None else prompt_tokens,
            len(reply.text) // 4 if completion_tokens is None else completion_tokens,
            estimated=prompt_tokens is None or completion_tokens is None,
        )
        if path and reply.says_something:
            _write_reply(path, reply)
        return reply

    def _complete(self, stage: str, request: dict[str, Any]) -> Completion:
        while True:
            try:
                return self._retrying(stage, request)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if self._adapt(str(error)):
                    continue
                if any(mark in str(error).lower() for mark in _ABOUT_THIS_REQUEST):
                    raise Rejected("request_refused", self._said(error)) from None
                raise AuthorFault(self._said(error)) from None
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                raise BadInput(
                    f"{self.options.host} refuses model {self.options.model!r}: {self._said(error)}; check --base-url, "
                    f"--model and "
                    f"{KEY_VARIABLE}"
                ) from None
            except BadReply as error:
                if "content_filter" in str(error):
                    return Completion(message=ReplyMessage(), finish="content_filter")
                raise AuthorFault(self._said(error)) from None
            except (openai.OpenAIError, ValueError) as error:
                raise AuthorFault(self._said(error)) from None

    def _adapt(self, message: str) -> bool:
        """After a refusal that names an optional field, leave the field out. False if it names none of ours."""
        with self._lock:
            if "max_completion_tokens" in message and self._length_field == "max_tokens":
                self._length_field = "max_completion_tokens"
                return True
            named = [name for name in _OPTIONAL_FIELDS if name in message and name not in self._left_out]
            self._left_out.update(named)
            return bool(named)

    def _retrying(self, stage: str, request: dict[str, Any]) -> Completion:
        backoff = wait_random_exponential(
            multiplier=min(1.0, self.options.longest_wait_s), max=self.options.longest_wait_s
        )

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = retry_after(error) if isinstance(error, openai.APIStatusError) else None
            if asked is None:
                return float(backoff(state))
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + asked)
            return asked

        return Retrying(
            retry=retry_if_exception(may_pass),
            stop=stop_after_attempt(self.options.attempts),
            wait=wait,
            before_sleep=lambda state: self.ledger.count_retry(stage),
            reraise=True,
        )(self._send, request)

    def _send(self, request: dict[str, Any]) -> Completion:
        time.sleep(max(0.0, self._not_before - time.monotonic()))
        fields: dict[str, Any] = {
            "temperature": request["temperature"],
            "seed": request["seed"],
            self._length_field: request["max_tokens"],
        }
        if request["json"]:
            fields["response_format"] = {"type": "json_object"}
        return ask(
            self._client,
            model=request["model"],
            messages=request["messages"],
            **{name: value for name, value in fields.items() if name not in self._left_out},
        )

    def _said(self, error: Exception) -> str:
        return words_of(error, self._key if self._key != "none" else "")

    def _cache_path(self, request: dict[str, Any]) -> Path | None:
        if self._cache is None:
            return None
        text = json.dumps(request, sort_keys=True, ensure_ascii=True)
        name = hashlib.sha256(text.encode("ascii")).hexdigest()
        return self._cache / name[:2] / f"{name}.json"


def retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds that the server asks to wait (`Retry-After`, seconds or date), at most LONGEST_RETRY_AFTER_S, or None."""
    value = error.response.headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER_S) if seconds == seconds else None


def _reply_of(completion: Completion) -> Reply:
    return Reply(
        text=completion.message.content.text,
        finish="length" if completion.cut_off else completion.finish or "stop",
        refusal=completion.message.refusal or "",
    )


def _read_reply(path: Path) -> Reply | None:
    """The stored reply, or None if it is missing, torn or invalid; it is then requested again."""
    try:
        reply = TypeAdapter(Reply).validate_json(path.read_bytes(), strict=True)
    except (OSError, ValueError):
        return None
    return reply if reply.says_something else None


def _write_reply(path: Path, reply: Reply) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{threading.get_ident()}.partial")
    partial.write_text(json.dumps(asdict(reply)), encoding="utf-8")
    partial.replace(path)
