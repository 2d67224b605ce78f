"""The taskset: one task per environment. The scorer computes the reward from the turns in the trace.

The tools run twice: in the rollout's tool server for the model, and here for the reward. Results depend only on source
and arguments, so both agree, and the reward does not depend on what a rollout reports.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import verifiers.v1 as vf

from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolCall
from reward.score import read_gold
from reward.tool_calls import render_call
from serving.episodes.errors import EpisodeError
from serving.episodes.outcomes import MatchOutcome
from serving.episodes.recorded import score_recorded, turn_text

from .servers.tools import FtrlToolset

_FOLDER = Path(__file__).resolve().parent
SETTINGS = json.loads((_FOLDER / "settings.json").read_text(encoding="utf-8"))


class FtrlToolsData(vf.TaskData):
    """`environment`: the complete record with the gold, for the tool server and the scorer. It is not in the prompt."""

    environment: str


class FtrlToolsTaskConfig(vf.TaskConfig):
    """`tools`: where the tool server runs."""

    tools: vf.ToolsetConfig = vf.ToolsetConfig()


class FtrlToolsTask(vf.Task[FtrlToolsData, vf.State, FtrlToolsTaskConfig]):
    """One environment, played by native tool calls."""

    @classmethod
    def toolsets(cls, config: FtrlToolsTaskConfig) -> list[vf.Toolset]:
        return [FtrlToolset(config.tools)]

    async def validate(self, runtime: vf.Runtime) -> bool | None:
        """Whether the gold plan, one call per turn, solves everything and yields the answer. None without a plan."""
        environment = self._environment()
        if not environment.gold_plan:
            return None
        plan = [render_call(ToolCall(call.name, call.arguments)) for call in environment.gold_plan]
        outcome = await self._scored([*plan, f"The answer is {environment.answer}."])
        return outcome.score.solve_r == 1.0 and (outcome.score.answer_correct or environment.answer is None)

    @vf.reward(weight=1.0)
    async def ftrl(self, trace: vf.Trace) -> float:
        """The episode's reward. Raises RuntimeError if the sandbox failed, which says nothing about the model."""
        outcome = await self._scored(_texts(trace))
        if outcome.fault:
            raise RuntimeError("the tool sandbox failed while scoring")
        return outcome.rewards[SETTINGS["reward"]]

    @vf.metric
    async def parts(self, trace: vf.Trace) -> dict[str, float]:
        """The components of the reward."""
        score = (await self._scored(_texts(trace))).score
        names = ("solve_p", "solve_r", "solve_f1", "calls", "solved", "answer_correct")
        return {name: float(getattr(score, name)) for name in names}

    async def _scored(self, texts: list[str]) -> MatchOutcome:
        episode = (self._environment(), texts)
        found = await asyncio.to_thread(score_recorded, [episode], variant=SETTINGS["variant"], match=SETTINGS["match"])
        return found[0]

    def _environment(self) -> Environment:
        return Environment.model_validate_json(self.data.environment)


class FtrlToolsConfig(vf.TasksetConfig):
    """`split`: use only this split; empty for all."""

    split: str = ""
    task: FtrlToolsTaskConfig = FtrlToolsTaskConfig()


class FtrlToolsTaskset(vf.Taskset[FtrlToolsTask, FtrlToolsConfig]):
    """The environments of the package, in file order. Raises EpisodeError for an unknown split."""

    def load(self) -> Iterator[FtrlToolsTask]:
        environments = read_gold(_FOLDER / "environments.jsonl", "strict").values()
        splits = {environment.split for environment in environments}
        if self.config.split and self.config.split not in splits:
            raise EpisodeError("unknown_split", f"split {self.config.split!r}: expected one of {', '.join(splits)}")
        for environment in environments:
            if self.config.split in ("", environment.split):
                yield FtrlToolsTask(_data(environment), self.config.task)


def _data(environment: Environment) -> FtrlToolsData:
    system = [message["content"] for message in environment.messages if message["role"] == "system"]
    return FtrlToolsData(
        id=environment.id,
        name=environment.id,
        prompt=[message for message in environment.messages if message["role"] != "system"],  # type: ignore[arg-type]
        system_prompt="\n\n".join(system) or None,
        environment=environment.model_dump_json(),
    )


def _texts(trace: vf.Trace) -> list[str]:
    """The model's turns as texts."""
    return [
        turn_text(
            {
                "content": message.content,
                "reasoning_content": message.reasoning_content,
                "tool_calls": [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls or ()],
            }
        )
        for message in trace.assistant_messages
    ]
