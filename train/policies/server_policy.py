"""A policy behind an OpenAI-compatible server, for open models (vLLM, SGLang, llama.cpp) and closed ones.

Many requests run concurrently. Connection errors, rate limits and overloads are retried with growing waits. If all
attempts fail, or the reply is not a chat completion (env_construction/replies/server_replies.py), only that episode
gets a fault. If the server parses tool calls and thinking, the raw text of the turn is rebuilt from them, so that all
policies share one parser and one scorer. The API key, if required, comes from OPENAI_API_KEY.

Requests include `chat_template_kwargs: {"enable_thinking": ...}`, which vLLM and SGLang support. If a server rejects
the field, requests omit it. With thinking requested, the rejection is a fault.

Reasoning of earlier turns is sent as `reasoning_content`, so that the server's chat template handles it as for `hf:`
and `vllm:` (Qwen3's keeps it between the calls of one question). If a server rejects the field, messages omit it and a
note is printed once: the model then sees less of its own thinking than a local one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

import openai
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from env_construction.environment.jsonl import BadInput
from env_construction.replies.server_replies import (
    BadReply,
    CalledFunction,
    Completion,
    ReplyMessage,
    ask,
    may_pass,
    words_of,
)
from env_construction.sandbox.tool_sandbox import ToolCall
from reward.tool_calls import parse_turn, render_call, with_call_ids, without_calls
from train.policies.interface import Exchange, Generation, PolicyRequest

_TOO_LONG = ("context length", "context_length", "maximum context", "too long", "too many tokens", "max_model_len")
_THINKING_TAG = re.compile("</?think>")


class ServerPolicy:
    """Asks `model` at `base_url` (with its `/v1`)."""

    workers = 1  # one stream; `concurrency` requests are under way in it

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 1024,
        thinking: bool = False,
        concurrency: int = 32,
        timeout_s: float = 600.0,
        attempts: int = 6,
        longest_wait_s: float = 60.0,
    ) -> None:
        if not _is_base_url(base_url):
            raise BadInput(f"openai:{model}@{base_url}: expected a base URL such as http://localhost:8000/v1")
        self.name = f"openai:{model}@{base_url}"
        self.model = model
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.thinking = thinking
        self.concurrency = concurrency
        self.attempts = attempts
        self.longest_wait_s = longest_wait_s
        self._sent = {
            "chat_template_kwargs": not thinking,
            "reasoning_content": True,
        }  # optional field -> may be left out
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        self._client = openai.OpenAI(base_url=base_url, api_key=self._key or "none", timeout=timeout_s, max_retries=0)

    def stream(self, exchange: Exchange) -> None:
        """Keep `concurrency` requests under way: each that ends is exchanged for another at once."""
        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            running: dict[Future[Generation], int] = {}
            finished: list[tuple[int, Generation]] = []
            while True:
                for ticket, request in exchange(finished, self.concurrency - len(running)):
                    running[pool.submit(self._one, request)] = ticket
                if not running:
                    return
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                finished = [(running.pop(future), future.result()) for future in ended]

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        """One generation for each request, in order; what failed after all attempts is a generation with `fault`."""
        if not requests:
            return []
        with ThreadPoolExecutor(max_workers=min(self.concurrency, len(requests))) as pool:
            return list(pool.map(self._one, requests))

    def _one(self, request: PolicyRequest) -> Generation:
        try:
            completion = self._ask(request)
            text = raw_text(completion.message)
        except (openai.OpenAIError, BadReply) as error:
            refused = isinstance(error, BadReply) or getattr(error, "status_code", 0) in (400, 413, 422)
            if refused and not may_pass(error) and any(mark in str(error).lower() for mark in _TOO_LONG):
                return Generation(text="", tokens=0, prompt_tokens=0, truncated=False, too_long=True)
            return _fault(words_of(error, self._key))
        except (TypeError, ValueError, RecursionError) as error:  # of the client, before anything is sent
            return _fault(f"the request could not be written: {words_of(error, self._key)}")
        return Generation(
            text=text,
            tokens=completion.completion_tokens or 0,
            prompt_tokens=completion.prompt_tokens or 0,
            truncated=completion.cut_off,
        )

    def _ask(self, request: PolicyRequest) -> Completion:
        """The completion; a field that the server refuses is left out from then on, where it may be."""
        while True:
            sent = frozenset(self._sent)
            try:
                return self._ask_retrying(request, sent)
            except (openai.BadRequestError, openai.UnprocessableEntityError, BadReply) as error:
                refused = [name for name in sent if name in str(error) and self._sent.get(name, True)]
                if isinstance(error, BadReply):  # it may quote a reply, which can contain the name reasoning_content
                    refused = [name for name in refused if name != "reasoning_content"]
                if not refused:
                    raise
                for name in refused:
                    if self._sent.pop(name, None) and name == "reasoning_content":
                        print(
                            f"note: {self.name} takes no {name}: its model does not see its thinking of earlier turns"
                        )

    def _ask_retrying(self, request: PolicyRequest, sent: frozenset[str]) -> Completion:
        environment = request.environment
        options: dict[str, Any] = {}
        if environment.tools:
            options["tools"] = _valid_unicode(environment.openai_tools())
        if "chat_template_kwargs" in sent:
            options["extra_body"] = {"chat_template_kwargs": {"enable_thinking": self.thinking}}
        retrying = Retrying(
            retry=retry_if_exception(may_pass),
            stop=stop_after_attempt(self.attempts),
            wait=wait_random_exponential(multiplier=min(1.0, self.longest_wait_s), max=self.longest_wait_s),
            reraise=True,
        )
        return retrying(
            ask,
            self._client,
            model=self.model,
            messages=_valid_unicode(server_messages(environment.messages, "reasoning_content" in sent)),
            temperature=self.temperature,
            max_tokens=self.max_new_tokens,
            seed=request.seed,
            **options,
        )


def _is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half a bracket
        return False


def _fault(words: str) -> Generation:
    return Generation(text="", tokens=0, prompt_tokens=0, truncated=False, fault=words)


def server_messages(messages: Sequence[Mapping[str, Any]], reasoning: bool = True) -> list[dict[str, Any]]:
    """Messages as the API wants them: calls with ids and arguments as JSON text, each tool message naming its call.

    `reasoning`: with the thinking of earlier turns.
    """
    converted: list[dict[str, Any]] = []
    for message in with_call_ids(messages):
        new = {key: value for key, value in message.items() if reasoning or key != "reasoning_content"}
        if message.get("role") == "tool":
            new.pop("name", None)
        if message.get("tool_calls"):
            new["tool_calls"] = [
                call | {"function": call["function"] | {"arguments": _as_json_text(call["function"]["arguments"])}}
                for call in message["tool_calls"]
            ]
        converted.append(new)
    return converted


def _as_json_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _valid_unicode(value: Any) -> Any:
    """The same JSON value; lone surrogates, which a model can write as escapes and no server takes, become `?`."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def raw_text(message: ReplyMessage) -> str:
    """The turn's raw text from a server's message: thinking in its tags, content, then the calls in theirs.

    Some servers leave a parsed call in the content; it is written only once. Thinking that the content opens but does
    not close ends before the calls, because the server found them outside of it. Arguments that are not a JSON object
    are kept unchanged inside the tags, so the parser counts them as malformed.
    """
    parts: list[str] = []
    if message.thinking:
        parts.append(f"<think>\n{_THINKING_TAG.sub(' ', message.thinking).strip()}\n</think>\n")
    blocks = [_call_block(function) for function in message.calls]
    text = message.text
    if blocks:
        text = without_calls(text, [next(iter(parse_turn(block, "strict").calls), None) for block in blocks])
        if text.rfind("<think>") > text.rfind("</think>"):
            text += "\n</think>"
    if text:
        parts.append(text)
    return "\n".join([*parts, *blocks])


def _call_block(function: CalledFunction) -> str:
    try:
        values = json.loads(function.arguments)
        if isinstance(values, dict):
            return render_call(ToolCall(function.name, values))
    except (ValueError, RecursionError):
        pass
    return f'<tool_call>\n{{"name": {json.dumps(function.name)}, "arguments": {function.arguments}}}\n</tool_call>'
