"""The tool server of one rollout: serves the tools of the task's environment and runs them in the sandbox."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import verifiers.v1 as vf
from mcp.types import CallToolResult, TextContent, Tool

from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolCall, shared_sandbox


class FtrlToolset(vf.Toolset[vf.ToolsetConfig]):
    """Lists the tools under their original names."""

    TOOL_PREFIX = None
    _environment: Environment

    async def setup_task(self, task: Any) -> None:
        self._environment = Environment.model_validate_json(task.environment)

    def register(self, mcp: Any) -> None:
        server = cast(
            Any, mcp
        )  # the tools are not Python functions here, so two handlers replace the usual registration
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
