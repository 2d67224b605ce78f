"""The tool server of one rollout: serves the tools of the task's environment and runs them in the sandbox.

A stateful environment starts with its own copy of the tables. Its calls run one at a time, each on the tables that the
call before it left, as in the reward.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import verifiers.v1 as vf
from mcp.types import CallToolResult, TextContent, Tool

from env_construction.environment.schema import Environment
from env_construction.environment.state import Tables
from env_construction.sandbox.stateful_turn import read_run, stateful_job
from env_construction.sandbox.tool_sandbox import ToolCall, ToolResult, shared_sandbox


class FtrlToolset(vf.Toolset[vf.ToolsetConfig]):
    """Lists the tools under their original names."""

    TOOL_PREFIX = None
    _environment: Environment
    _tables: Tables | None  # of a stateful environment
    _one_at_a_time: asyncio.Lock

    async def setup_task(self, task: Any) -> None:
        self._environment = Environment.model_validate_json(task.environment)
        self._tables = self._environment.state.now if self._environment.state else None
        self._one_at_a_time = asyncio.Lock()

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
        call = ToolCall(name, arguments)
        if self._tables is None:
            [result] = await asyncio.to_thread(shared_sandbox().run, self._environment.codes, [call])
        else:
            async with self._one_at_a_time:
                result = await asyncio.to_thread(self._run_stateful, call)
        text = result.output.encode("utf-8", "backslashreplace").decode()
        return CallToolResult(content=[TextContent(type="text", text=text)], is_error=not result.ok)

    def _run_stateful(self, call: ToolCall) -> ToolResult:
        """Run a call on the current tables, and keep the tables that it leaves."""
        codes = self._environment.codes
        [found] = shared_sandbox().run_batch([stateful_job(codes, [call], self._tables)])
        run = read_run(codes, [call], self._tables, found)
        self._tables = run.state
        return run.results[0]


if __name__ == "__main__":
    FtrlToolset.run()
