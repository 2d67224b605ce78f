"""Rules of stateful environments: the gold plan leads to the goals, nothing less does, and every rule is stated.

The other rules hold too. Their extra calls each start from the first tables (`stateful_trial`), so a wrong call cannot
spoil the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from env_construction.environment.schema import Environment
from env_construction.environment.state import EnvironmentState, difference, overlap
from env_construction.rules.finding import Finding
from env_construction.sandbox.stateful_turn import StatefulRun, read_run, stateful_job
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolResult


@dataclass(frozen=True)
class StateRuns:
    """`gold`: the gold plan in each order tried; `reads`: its calls without a goal; `refused`: one call per rule."""

    gold: list[StatefulRun]
    reads: StatefulRun
    refused: StatefulRun


class StatefulTrial:
    """Turns the jobs of a stateful environment's trial into jobs on its tables, and back."""

    def __init__(
        self, environment: Environment, state: EnvironmentState, jobs: Sequence[SandboxJob], gold: int
    ) -> None:
        """`gold`: how many of the first `jobs` are the gold plan, which runs call after call on one state."""
        self.state = state
        self.gold = gold
        goals = {goal.sub_question for goal in state.goals}
        reads = [ToolCall(c.name, c.arguments) for c in environment.gold_plan if c.sub_question not in goals]
        refused = [ToolCall(rule.tool, rule.arguments) for rule in state.rules]
        self.plain = [*jobs, SandboxJob(environment.codes, reads), SandboxJob(environment.codes, refused)]
        in_order = (*range(gold), len(jobs), len(jobs) + 1)
        self.jobs = [on_tables(state, job, place not in in_order) for place, job in enumerate(self.plain)]

    def read(self, results: Sequence[Sequence[ToolResult]]) -> tuple[list[list[ToolResult]], StateRuns]:
        """The results of the original jobs, and the runs that the rules of this module judge."""
        runs = [from_tables(self.state, job, found) for job, found in zip(self.plain, results, strict=True)]
        return [run.results for run in runs[:-2]], StateRuns(runs[: self.gold], runs[-2], runs[-1])


def on_tables(state: EnvironmentState, job: SandboxJob, alone: bool) -> SandboxJob:
    """The job on the first tables; a job without calls stays as it is."""
    return stateful_job(job.codes, job.calls, state.tables, alone) if job.calls else job


def from_tables(state: EnvironmentState, job: SandboxJob, found: Sequence[ToolResult]) -> StatefulRun:
    """The run of `job` from the results of `on_tables`."""
    return read_run(job.codes, job.calls, state.tables, found) if job.calls else StatefulRun([], state.tables)


def state_is_consistent(environment: Environment) -> Finding | None:
    """Goals belong to gold calls, change something, and share no cell; the state is that of the start."""
    state, rule = environment.state, "state_is_consistent"
    if state is None:
        return None
    if not state.goals or state.changes or state.credited:
        return Finding(rule, "expected goals, and no changes before the first turn")
    answers = {item.id: (item.tool, item.answer) for item in environment.sub_questions}
    for goal in state.goals:
        if environment.gold_plan and answers.get(goal.sub_question) != (goal.tool, goal.answer):
            return Finding(rule, f"the goal of {goal.sub_question} is not its sub-question's", place=goal.sub_question)
    for first, second in combinations(state.goals, 2):
        if overlap(first.changes, second.changes):
            return Finding(rule, f"{first.sub_question} and {second.sub_question} change one cell")
    if state.met():
        return Finding(rule, f"the goal of {sorted(state.met())[0]} is met at the start")
    wanted = sorted((goal.tool, goal.answer) for goal in state.goals)
    tools = {goal.tool for goal in state.goals}
    listed = sorted((name, gold) for name, golds in environment.unsolved_set.items() if name in tools for gold in golds)
    return None if listed == wanted else Finding(rule, "a tool that writes has a sub-answer without a goal")


def rules_are_stated(environment: Environment) -> Finding | None:
    """The document of every tool that writes holds its rules, word for word."""
    documents = {tool.name: tool.description for tool in environment.tools}
    for rule in environment.state.rules if environment.state else ():
        if rule.text not in documents.get(rule.tool, ""):
            return Finding("rules_are_stated", f"{rule.tool}: its document lacks {rule.text!r}", place=rule.tool)
    return None


def gold_plan_reaches_state(state: EnvironmentState, runs: StateRuns) -> Finding | None:
    """The gold plan leaves exactly the goals, in every order tried."""
    for run in runs.gold:
        after = state.after(run.state)
        if not after.is_right():
            open_goals = {goal.sub_question for goal in state.goals} - after.met()
            message = f"open: {sorted(open_goals)}; changed unasked: {sorted(after.unasked())}"
            return Finding("gold_plan_reaches_state", message)
    return None


def reading_changes_nothing(state: EnvironmentState, runs: StateRuns) -> Finding | None:
    """The gold calls without a goal change nothing, so a plan that only reads meets no goal."""
    changed = difference(state.tables, runs.reads.state)
    return Finding("reading_changes_nothing", "a gold call without a goal changes the tables") if changed else None


def rules_are_enforced(state: EnvironmentState, runs: StateRuns) -> Finding | None:
    """The call that breaks a rule is refused in the rule's words, and changes nothing."""
    for rule, result in zip(state.rules, runs.refused.results, strict=True):
        if rule.text not in result.output:
            message = f"{rule.tool}: expected {rule.text!r}, got {result.output[:120]!r}"
            return Finding("rules_are_enforced", message, place=rule.tool)
    if difference(state.tables, runs.refused.state):
        return Finding("rules_are_enforced", "a refused call changes the tables")
    return None


STATE_RULES: tuple[Callable[[EnvironmentState, StateRuns], Finding | None], ...] = (
    gold_plan_reaches_state,
    reading_changes_nothing,
    rules_are_enforced,
)
