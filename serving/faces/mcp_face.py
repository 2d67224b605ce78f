"""MCP: the tools of an episode as MCP tools, over streamable HTTP or stdio.

The URL selects the episode. `/mcp?episode=KEY` plays an episode that was started over HTTP. `/mcp?id=ENVIRONMENT` (or
`split`, `index`, `seed`) starts a new one. `session=NAME` separates agents that share a URL. MCP has no rewards, so the
tool `submit_answer` accepts the final answer, ends the episode, and returns the reward. Its description and the prompt
`question` contain the question.

MCP has no turns either. A call is a separate turn unless its `_meta` has a number under TURN_KEY. A rejected request is
a JSON-RPC error whose data has the error code. A tool that fails is a result with `is_error`.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from env_construction.environment.jsonl import json_text
from env_construction.environment.schema import Environment, ToolDocument
from serving.episodes.errors import EpisodeError
from serving.episodes.server import EpisodeServer, submit_name

TURN_KEY = "ftrl/turn"
PROMPT = "question"
_REMEMBERED = 100_000


class McpFace:
    """The handlers of an MCP server on `episodes`. `choice`: defaults for the URL's id, split, index and seed."""

    def __init__(self, episodes: EpisodeServer, choice: Mapping[str, str] | None = None) -> None:
        self._episodes = episodes
        self._choice = dict(choice or {})
        self._keys: dict[tuple[str, ...], str] = {}  # by (session, choice)
        self._environments: dict[str, Environment] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def server(self) -> Server[Any]:
        """The server object of the `mcp` package."""
        return Server(
            "ftrl-environments",
            instructions="Answer the question with the tools, then call submit_answer. The prompt 'question' holds it.",
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
        )

    async def _list_tools(self, context: ServerRequestContext[Any], params: Any) -> types.ListToolsResult:
        environment = self._environment(self._key(context))
        tools = [_tool(tool) for tool in environment.tools]
        schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
        description = f"Submit the final answer, once, and end the episode. The question is: {environment.question}"
        tools.append(types.Tool(name=submit_name(environment), description=description, input_schema=schema))
        return types.ListToolsResult(tools=tools)

    async def _call_tool(self, context: ServerRequestContext[Any], params: Any) -> types.CallToolResult:
        key = self._key(context)
        arguments = params.arguments or {}
        lock = self._locks.setdefault(key, asyncio.Lock())
        turn = (context.meta or {}).get(TURN_KEY)
        if turn is not None and type(turn) is not int:
            raise _error(EpisodeError("bad_request", f"_meta {TURN_KEY}: expected an integer"))
        async with lock:  # agents call tools concurrently; run them in order of arrival
            try:
                if params.name == submit_name(self._environment(key)):
                    outcome = asdict(await self._episodes.finish_async(key, arguments.get("answer")))
                    return types.CallToolResult(content=[_text(json_text(outcome))], structured_content=outcome)
                result = await self._episodes.call_async(key, params.name, arguments, turn)
            except EpisodeError as error:
                raise _error(error) from None
        return types.CallToolResult(content=[_text(result.output)], is_error=not result.ok)

    async def _list_prompts(self, context: ServerRequestContext[Any], params: Any) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=[types.Prompt(name=PROMPT, description="The episode's messages")])

    async def _get_prompt(self, context: ServerRequestContext[Any], params: Any) -> types.GetPromptResult:
        if params.name != PROMPT:
            raise MCPError(types.INVALID_PARAMS, f"unknown prompt; the only one is {PROMPT!r}")
        messages = self._environment(self._key(context, fresh=True)).messages
        return types.GetPromptResult(
            messages=[
                types.PromptMessage(
                    role="assistant" if message["role"] == "assistant" else "user",  # MCP has no other roles
                    content=_text(message["content"]),
                )
                for message in messages
            ]
        )

    def _key(self, context: ServerRequestContext[Any], fresh: bool = False) -> str:
        """The key of a request's episode. A request for the question (`fresh`) starts a new episode after the end."""
        request = context.request
        query = dict(request.query_params) if request is not None else {}
        if "episode" in query:
            return query["episode"]
        session = request.headers.get("mcp-session-id", "") if request is not None else ""
        choice = {name: query.get(name, self._choice.get(name)) for name in ("id", "split", "index", "seed")}
        place = (session or query.get("session", ""), *(value or "" for value in choice.values()))
        key = self._keys.get(place)
        try:
            if key is None or (fresh and not self._episodes.is_live(key)):
                start = self._episodes.reset(
                    id=choice["id"],
                    split=choice["split"],
                    index=_number("index", choice["index"]),
                    seed=_number("seed", choice["seed"]) or 0,
                )
                if len(self._keys) >= _REMEMBERED:
                    self._keys.pop(next(iter(self._keys)))
                key = self._keys[place] = start.episode
        except EpisodeError as error:
            raise _error(error) from None
        return key

    def _environment(self, key: str) -> Environment:
        """The environment of an episode, even after its end: clients list the tools to parse the last result."""
        try:
            environment = self._environments[key] = self._episodes.environment_of(key)
            if len(self._environments) > _REMEMBERED:
                self._environments.pop(next(iter(self._environments)))
            return environment
        except EpisodeError as error:
            if key in self._environments:
                return self._environments[key]
            raise _error(error) from None


def _tool(tool: ToolDocument) -> types.Tool:
    return types.Tool(name=tool.name, description=tool.description, input_schema={**tool.parameters, "type": "object"})


def _text(text: str) -> types.TextContent:
    """The text with lone surrogates escaped, because UTF-8 cannot encode them."""
    return types.TextContent(text=text.encode("utf-8", "backslashreplace").decode())


def _number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise EpisodeError("bad_request", f"{name}={text!r}: expected an integer") from None


def _error(error: EpisodeError) -> MCPError:
    code = types.INTERNAL_ERROR if error.code in ("sandbox_fault", "full") else types.INVALID_PARAMS
    return MCPError(code, str(error), {"code": error.code})
