"""The tools of one rollout's environment, run in the sandbox. Which tools there are follows from the task."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import verifiers.v1 as vf
from mcp.types import CallToolResult, TextContent, Tool

from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolCall, shared_sandbox


class FtrlToolset(vf.Toolset[vf.ToolsetConfig]):
    """Advertises the tools under their own names."""

    TOOL_PREFIX = None
    _environment: Environment

    async def setup_task(self, task: Any) -> None:
        self._environment = Environment.model_validate_json(task.environment)

    def register(self, mcp: Any) -> None:
        server = cast(Any, mcp)  # the tools have no Python functions here: the two handlers stand in for a fixed list
        server.list_tools = self._list_tools
        server.call_tool = self._call_tool

    async def _list_tools(self) -> list[Tool]:
        return [
            Tool(
                name=tool.name, description=tool.description or None, input_schema={**tool.parameters, "type": "object"}
            )
            for tool in self._environment.tools
        ]

    async def _call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> CallToolResult:
        calls = [ToolCall(name, arguments)]
        [result] = await asyncio.to_thread(shared_sandbox().run, self._environment.codes, calls)
        text = result.output.encode("utf-8", "backslashreplace").decode()
        return CallToolResult(content=[TextContent(type="text", text=text)], is_error=not result.ok)


if __name__ == "__main__":
    FtrlToolset.run()
