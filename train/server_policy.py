"""The policy behind an OpenAI-compatible server: open models (vLLM, SGLang, llama.cpp) and closed ones alike.

Many requests run at once; a connection error, a rate limit or a 5xx answer is retried with growing waits, then becomes a
fault of that episode alone. Where the server parses tool calls and thinking, the raw text of the turn is rebuilt from them,
so that one parser and one scorer serve every policy. A key, where one is needed, comes from OPENAI_API_KEY.

`chat_template_kwargs: {"enable_thinking": ...}` is sent, as vLLM and SGLang understand it; a server that refuses the field
gets the requests without it, unless thinking was asked for: then the refusal is a fault.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import openai
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from env_construction.jsonl import BadInput
from env_construction.server_replies import may_pass
from env_construction.tool_sandbox import ToolCall
from reward.tool_calls import render_call
from train.policies import Exchange, Generation, PolicyRequest

_TOO_LONG = ("context length", "context_length", "maximum context", "too long", "too many tokens", "max_model_len")


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
        if not base_url.startswith(("http://", "https://")):
            raise BadInput(f"openai:{model}@{base_url}: expected a base URL such as http://localhost:8000/v1")
        self.name = f"openai:{model}@{base_url}"
        self.model = model
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.thinking = thinking
        self.concurrency = concurrency
        self.attempts = attempts
        self.longest_wait_s = longest_wait_s
        self._send_template_kwargs = True
        self._client = openai.OpenAI(
            base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY") or "none", timeout=timeout_s, max_retries=0
        )

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
        except openai.BadRequestError as error:
            if any(mark in str(error).lower() for mark in _TOO_LONG):
                return Generation(text="", tokens=0, prompt_tokens=0, truncated=False, too_long=True)
            return _fault(error)
        except openai.OpenAIError as error:
            return _fault(error)
        if not completion.choices:
            return Generation(text="", tokens=0, prompt_tokens=0, truncated=False, fault="the server sent no choice")
        choice = completion.choices[0]
        usage = completion.usage
        return Generation(
            text=raw_text(choice.message.model_dump()),
            tokens=usage.completion_tokens if usage else 0,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            truncated=choice.finish_reason == "length",
        )

    def _ask(self, request: PolicyRequest) -> Any:
        try:
            return self._ask_retrying(request, self._send_template_kwargs)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if "chat_template_kwargs" not in str(error) or self.thinking or not self._send_template_kwargs:
                raise
            self._send_template_kwargs = False
            return self._ask_retrying(request, False)

    def _ask_retrying(self, request: PolicyRequest, template_kwargs: bool) -> Any:
        environment = request.environment
        options: dict[str, Any] = {}
        if environment.tools:
            options["tools"] = environment.openai_tools()
        if template_kwargs:
            options["extra_body"] = {"chat_template_kwargs": {"enable_thinking": self.thinking}}
        retrying = Retrying(
            retry=retry_if_exception(may_pass),
            stop=stop_after_attempt(self.attempts),
            wait=wait_random_exponential(multiplier=min(1.0, self.longest_wait_s), max=self.longest_wait_s),
            reraise=True,
        )
        return retrying(
            self._client.chat.completions.create,
            model=self.model,
            messages=server_messages(environment.messages),
            temperature=self.temperature,
            max_tokens=self.max_new_tokens,
            seed=request.seed,
            **options,
        )


def _fault(error: Exception) -> Generation:
    text = f"{type(error).__name__}: {error}"[:500]
    return Generation(text="", tokens=0, prompt_tokens=0, truncated=False, fault=text)


def server_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as the API wants them: calls with ids and arguments as JSON text, each tool message naming its call."""
    converted: list[dict[str, Any]] = []
    open_ids: list[str] = []
    for index, message in enumerate(messages):
        new = {key: value for key, value in message.items() if key != "reasoning_content"}
        if message.get("tool_calls"):
            open_ids = [f"call_{index}_{place}" for place in range(len(message["tool_calls"]))]
            new["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {
                        "name": call["function"]["name"],
                        "arguments": _as_json_text(call["function"]["arguments"]),
                    },
                }
                for call_id, call in zip(open_ids, message["tool_calls"], strict=True)
            ]
        elif message.get("role") == "tool":
            new["tool_call_id"] = open_ids.pop(0) if open_ids else f"call_{index}"
            new.pop("name", None)
        converted.append(new)
    return converted


def _as_json_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def raw_text(message: Mapping[str, Any]) -> str:
    """The turn's raw text from a server's message: thinking in its tags, content, then the calls in theirs.

    Arguments that are not a JSON object stay as they came, inside the tags: the parser then counts them as malformed.
    """
    parts: list[str] = []
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thinking, str) and thinking:
        parts.append(f"<think>\n{thinking.strip()}\n</think>\n")
    if message.get("content"):
        parts.append(str(message["content"]))
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        arguments = function.get("arguments") or "{}"
        try:
            values = json.loads(arguments)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            parts.append(render_call(ToolCall(str(function.get("name")), values)))
        else:
            body = f'{{"name": {json.dumps(function.get("name"))}, "arguments": {arguments}}}'
            parts.append(f"<tool_call>\n{body}\n</tool_call>")
    return "\n".join(parts)
