"""The taskset: one task for each environment; the reward is the scorer's, of the turns that the trace holds.

The tools run in the rollout's tool server for the model's sake, and once more here: a result depends on source and arguments
alone, and a reward must not depend on what a rollout reports.
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
from serving.episodes.outcomes import MatchOutcome
from serving.episodes.recorded import score_recorded, turn_text

from .servers.tools import FtrlToolset

_FOLDER = Path(__file__).resolve().parent
SETTINGS = json.loads((_FOLDER / "settings.json").read_text(encoding="utf-8"))


class FtrlToolsData(vf.TaskData):
    """`environment`: the whole record, gold included; it goes to the tool server and the scorer, not into the prompt."""

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
        """The gold plan, one call a turn, solves everything and leads to the answer. None without a plan."""
        environment = self._environment()
        if not environment.gold_plan:
            return None
        plan = [render_call(ToolCall(call.name, call.arguments)) for call in environment.gold_plan]
        outcome = await self._scored([*plan, f"The answer is {environment.answer}."])
        return outcome.score.solve_r == 1.0 and (outcome.score.answer_correct or environment.answer is None)

    @vf.reward(weight=1.0)
    async def ftrl(self, trace: vf.Trace) -> float:
        """The episode's reward. Raises RuntimeError where the sandbox broke: that is no reward of the model's."""
        outcome = await self._scored(_texts(trace))
        if outcome.fault:
            raise RuntimeError("the tool sandbox failed while scoring")
        return outcome.rewards[SETTINGS["reward"]]

    @vf.metric
    async def parts(self, trace: vf.Trace) -> dict[str, float]:
        """What the reward is made of."""
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
    """`split`: only the environments of this split; all if empty."""

    split: str = ""
    task: FtrlToolsTaskConfig = FtrlToolsTaskConfig()


class FtrlToolsTaskset(vf.Taskset[FtrlToolsTask, FtrlToolsConfig]):
    """The environments of the package, in the file's order."""

    def load(self) -> Iterator[FtrlToolsTask]:
        for environment in read_gold(_FOLDER / "environments.jsonl", "strict").values():
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
    """The model's turns as it would have written them."""
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
