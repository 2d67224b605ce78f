"""What a turn did to the database of a stateful environment, under `strict`: goals met, and harm.

A writing call is not judged by its output. Its sub-question counts as solved when the tables hold its goal's values,
whichever calls wrote them, and each goal counts once. A turn does harm if it changes a row that nobody asked to change,
or takes back a goal that was met. A harmful turn earns HARM_REWARD, whatever else it does. `published` knows outputs
only, so none of this applies there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from env_construction.environment.state import EnvironmentState, StateGoal
from env_construction.sandbox.tool_sandbox import ToolCall, ToolResult

HARM_REWARD = -0.5
"""As much as an empty turn costs, the largest penalty of the reward table."""


@dataclass(frozen=True)
class StateChange:
    """A turn's effect. `solved[i]`: the sub-answers of the goals that call i met. `state`: after the turn."""

    state: EnvironmentState
    newly: list[StateGoal]
    solved: list[tuple[str, ...]]
    harm: int


def state_change(
    before: EnvironmentState,
    after: EnvironmentState,
    unsolved: Mapping[str, Sequence[str]],
    calls: Sequence[ToolCall],
    results: Sequence[ToolResult],
) -> StateChange:
    """The effect of a turn that leads from `before` to `after`. `harm` counts rows and goals.

    `newly` are goals met for the first time whose answer is still in `unsolved`. Each goes to the first successful call
    of its own tool that met none yet, else to the last successful call.
    """
    met_before, met = before.met(), after.met()
    first = [goal for goal in after.goals if goal.sub_question in met and goal.sub_question not in before.credited]
    newly = [goal for goal in first if goal.answer in unsolved.get(goal.tool, ())]
    harm = len(after.unasked() - before.unasked()) + len(met_before - met)
    solved: list[list[str]] = [[] for _ in calls]
    good = [place for place, result in enumerate(results) if result.ok] or list(range(len(calls)))
    for goal in newly if calls else ():
        own = [place for place in good if calls[place].name == goal.tool and not solved[place]]
        solved[(own or good[-1:])[0]].append(goal.answer)
    credited = [*before.credited, *(goal.sub_question for goal in first)]
    return StateChange(after.model_copy(update={"credited": credited}), newly, [tuple(found) for found in solved], harm)


def lost_goals(state: EnvironmentState) -> int:
    """How many goals that earned reward do not count at the end: all of them beside an unasked change."""
    if state.unasked():
        return len(state.credited)
    return len(set(state.credited) - state.met())


def was_harmed(state: EnvironmentState) -> bool:
    """Whether an unasked change remains, or a goal that was met is not met any more."""
    return bool(state.unasked()) or lost_goals(state) > 0
