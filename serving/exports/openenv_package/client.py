"""OpenEnv's tool client, extended so that a call can name its model turn.

Example:
    with FtrlToolsEnv(base_url="http://localhost:8000").sync() as env:
        messages = env.reset(split="test", index=0).observation.messages
        env.step(CallToolAction(tool_name="capital_of", arguments={"country": "Peru"}, metadata={"turn": 0}))
        result = env.step(CallToolAction(tool_name="submit_answer", arguments={"answer": "Lima"}))
        print(result.reward, result.observation.result)
"""

from __future__ import annotations

from typing import Any

from openenv.core.mcp_client import MCPToolClient


class FtrlToolsEnv(MCPToolClient):
    """An MCPToolClient that also sends an action's metadata."""

    def _step_payload(self, action: Any) -> dict[str, Any]:
        return {**super()._step_payload(action), "metadata": action.metadata}
