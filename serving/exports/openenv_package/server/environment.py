"""The environment with OpenEnv's interface: reset, step, state, and the tasks of each split.

Tools differ between tasks, so `ListToolsAction` lists the tools of the current episode. The tool `submit_answer`
accepts the final answer, ends the episode and returns the reward with its parts. Earlier steps have no reward. Calls of
one model turn have the same `turn` in the action's metadata. A call without it is a separate turn.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.mcp_types import (
    CallToolAction,
    CallToolObservation,
    ListToolsAction,
    ListToolsObservation,
    Tool,
    ToolError,
    ToolErrorType,
)
from openenv.core.env_server.types import Action, Observation, State

from reward.score import read_gold
from serving.episodes.errors import EpisodeError
from serving.episodes.server import EpisodeServer, submit_name

_FOLDER = Path(__file__).resolve().parents[1]
SETTINGS = json.loads((_FOLDER / "settings.json").read_text(encoding="utf-8"))


class StartObservation(Observation):
    """The initial messages, and the environment's id and split."""

    messages: list[dict[str, Any]]
    environment: str
    split: str


@lru_cache(maxsize=1)
def episodes() -> EpisodeServer:
    """All episodes of this process."""
    environments = read_gold(_FOLDER / "environments.jsonl", "strict")
    return EpisodeServer(environments, variant=SETTINGS["variant"], match=SETTINGS["match"])


class FtrlToolsEnvironment(Environment):
    """One client's episode at a time."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._episode = ""
        self._state = State(episode_id=None, step_count=0)

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        split: str | None = None,
        index: int | None = None,
        id: str | None = None,
        **_: Any,
    ) -> Observation:
        """Start the environment `id`, number `index` of `split`, or a random one. Raises ValueError if unknown."""
        try:
            start = episodes().reset(split, index, id, seed or 0)
        except EpisodeError as error:
            raise ValueError(f"{error.code}: {error}") from None
        self.close()
        self._episode = start.episode
        self._state = State(episode_id=episode_id or start.episode, step_count=0)
        return StartObservation(messages=start.messages, environment=start.environment, split=start.split)

    def step(self, action: Action, timeout_s: float | None = None, **_: Any) -> Observation:
        """List the tools, run one, or submit the answer."""
        try:
            if isinstance(action, ListToolsAction):
                return ListToolsObservation(tools=self._tools())
            if not isinstance(action, CallToolAction):
                raise EpisodeError("bad_request", "expected an action of type list_tools or call_tool")
            self._state.step_count += 1
            return self._call(action)
        except EpisodeError as error:
            kind = ToolErrorType.TRANSPORT_ERROR if error.code == "sandbox_fault" else ToolErrorType.INVALID_ARGS
            name = getattr(action, "tool_name", "")
            return CallToolObservation(
                tool_name=name, error=ToolError(error_type=kind, message=f"{error.code}: {error}")
            )

    def _call(self, action: CallToolAction) -> Observation:
        environment = episodes().environment_of(self._episode)
        if action.tool_name == submit_name(environment):
            outcome = episodes().finish(self._episode, action.arguments.get("answer"))
            reward = outcome.of(SETTINGS["match"]).rewards[SETTINGS["reward"]]
            return CallToolObservation(tool_name=action.tool_name, result=asdict(outcome), done=True, reward=reward)
        result = episodes().call(self._episode, action.tool_name, action.arguments, action.metadata.get("turn"))
        return CallToolObservation(tool_name=action.tool_name, result=result.output, metadata={"status": result.status})

    def _tools(self) -> list[Tool]:
        environment = episodes().environment_of(self._episode)
        schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
        submit = Tool(name=submit_name(environment), description="Submit the final answer.", input_schema=schema)
        return [
            *(Tool(name=t.name, description=t.description, input_schema=t.parameters) for t in environment.tools),
            submit,
        ]

    @property
    def state(self) -> State:
        return self._state

    def close(self) -> None:
        """Drop the episode of a client that finished or disconnected."""
        if self._episode and episodes().is_live(self._episode):
            episodes().drop(self._episode)

    # -- the tasks, without their answers --------------------------------------------------------------------------

    def list_splits(self) -> list[Any]:
        return list(episodes().splits)

    def num_tasks(self, split: str) -> int:
        return len(self._split(split))

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        """Raises IndexError."""
        return self.get_task_range(split, index, index + 1)[0] if index >= 0 else self._no_task(index)

    def get_task_range(self, split: str, start: int | None = None, stop: int | None = None) -> list[Any]:
        some = self._split(split)
        return [
            {"index": index, "id": some[index].id, "scenario": some[index].scenario, "question": some[index].question}
            for index in range(*slice(start, stop).indices(len(some)))
        ]

    def list_tasks(self, split: str) -> list[Any]:
        return self.get_task_range(split)

    def _split(self, split: str) -> list[Any]:
        if split not in episodes().splits:
            raise ValueError(f"split {split!r}: expected one of {', '.join(episodes().splits)}")
        return episodes().splits[split]

    def _no_task(self, index: int) -> dict[str, Any]:
        raise IndexError(f"index {index}: expected 0 or more")
