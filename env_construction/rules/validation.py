"""The rules that every environment must pass, for any author: one function per rule. Statistics use the rules' names.

Static rules read the record. Replay rules read what the sandbox returned for the gold plan (several times, in several
orders) and for calls about a wrong entity. Probe rules (`probe_rules.py`) read what the needed tools return to a caller
who does not know what to ask. State rules (`state_rules.py`) read the tables that a stateful environment's calls
leave. Rules of constraints (`constraint_rules.py`) play the gold plan's calls through the checker; they are static. No
policy or model is needed. Records without a gold plan (the published data) are checked by the static rules and flagged
by the probe rules. The finding `gold_plan_absent` marks that the rest was not checked.

A finding is an `error` (the environment is rejected) or a `flag` (kept and counted).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from env_construction.building.author import Rejected
from env_construction.environment.matching import assign, published_match, strict_match
from env_construction.environment.schema import Environment, SubQuestion
from env_construction.rules.constraint_rules import CONSTRAINT_RULES
from env_construction.rules.finding import Finding
from env_construction.rules.probe_rules import PROBE_RULES
from env_construction.rules.probes import ProbePlan
from env_construction.rules.question_rules import answer_in_arguments, check_shape, is_trivial
from env_construction.rules.replay import RUNS, SLOW_S, Replay, ReplayPlan
from env_construction.rules.state_rules import (
    STATE_RULES,
    StatefulTrial,
    from_tables,
    on_tables,
    rules_are_stated,
    state_is_consistent,
)
from env_construction.rules.tool_rules import check_arguments, check_document, source_problem
from env_construction.sandbox.tool_sandbox import ToolResult, ToolSandbox

TRIES = 3
MACHINE = ("fault", "timeout", "crash")
"""Statuses of a call for which the machine may be to blame."""


StaticRule = Callable[[Environment], Finding | None]
ReplayRule = Callable[[Environment, Replay], Finding | None]


# static rules


def schema_valid(environment: Environment) -> Finding | None:
    """Tool documents are valid function documents over JSON Schema 2020-12."""
    for tool in environment.tools:
        try:
            check_document(tool)
        except Rejected as problem:
            return Finding("schema_valid", str(problem))
    return None


def names_match_code(environment: Environment) -> Finding | None:
    """Tools, codes and the sub-answers' tools have the same names, each once."""
    names = [tool.name for tool in environment.tools]
    if len(set(names)) < len(names):
        return Finding("names_match_code", "two tools have one name")
    if set(names) != set(environment.codes):
        odd = sorted(set(names) ^ set(environment.codes))
        return Finding("names_match_code", f"in tools or codes alone: {', '.join(odd)}")
    idle = sorted(set(environment.unsolved_set) - set(names))
    return Finding("names_match_code", f"sub-answers of unknown tools: {', '.join(idle)}") if idle else None


def source_is_pure(environment: Environment) -> Finding | None:
    """Every tool's source parses, defines its function, and does no input or output."""
    for name, source in environment.codes.items():
        problem = source_problem(source, name)
        if problem:
            return Finding("source_is_pure", f"{problem[0]}: {problem[1]}", place=name)
    return None


def sub_answers_present(environment: Environment) -> Finding | None:
    """There is at least one sub-answer, and none is empty."""
    answers = [answer for listed in environment.unsolved_set.values() for answer in listed]
    if not answers:
        return Finding("sub_answers_present", "no sub-answer at all")
    if any(not isinstance(answer, str) or not answer.strip(" ,") for answer in answers):
        return Finding("sub_answers_present", "an empty sub-answer is matched by any output")
    return None


def sub_answer_not_trivial(environment: Environment) -> Finding | None:
    """Flagged: published matching finds `yes`, one digit or one letter in nearly any output."""
    for listed in environment.unsolved_set.values():
        for answer in listed:
            if is_trivial(answer):
                return Finding("sub_answer_not_trivial", f"{answer!r} is matched by chance", fatal=False)
    return None


def sub_answer_not_in_question(environment: Environment) -> Finding | None:
    """The question contains no sub-answer. An error with a gold plan; a flag in others' data."""
    for listed in environment.unsolved_set.values():
        for answer in listed:
            if answer and strict_match(answer, environment.question):
                return Finding(
                    "sub_answer_not_in_question",
                    f"the question gives {answer!r} away",
                    fatal=bool(environment.gold_plan),
                )
    return None


def answer_present(environment: Environment) -> Finding | None:
    """There is a final answer."""
    return None if (environment.answer or "").strip() else Finding("answer_present", "no final answer", fatal=False)


def scenario_shape(environment: Environment) -> Finding | None:
    """The dependencies have the scenario's shape."""
    if not environment.sub_questions or environment.scenario is None:
        return None
    try:
        check_shape(environment.scenario, {item.id: item.depends_on for item in environment.sub_questions})
    except Rejected as problem:
        return Finding("scenario_shape", str(problem))
    return None


def dependency_is_real(environment: Environment) -> Finding | None:
    """The later call needs the earlier answer: it is in the call's arguments and not in the question."""
    answers = {item.id: item.answer for item in environment.sub_questions}
    calls = {call.sub_question: call for call in environment.gold_plan}
    for item in environment.sub_questions:
        if item.id not in calls:
            continue
        for other in item.depends_on:
            if other not in answers:
                return Finding("dependency_is_real", f"{item.id} depends on {other!r}, which is no sub-question")
            if not answer_in_arguments(answers[other], calls[item.id].arguments):
                return Finding("dependency_is_real", f"the call of {item.id} does not hold the answer of {other}")
    return None


def gold_call_valid(environment: Environment) -> Finding | None:
    """Every gold call fits its tool's document, and there is one for every sub-answer."""
    if not environment.gold_plan:
        return Finding("gold_plan_absent", "no gold plan: what needs a run is not judged", fatal=False)
    documents = {tool.name: tool for tool in environment.tools}
    for call in environment.gold_plan:
        if call.name not in documents:
            return Finding("gold_call_valid", f"{call.sub_question} calls {call.name!r}, which is no tool")
        try:
            check_document(documents[call.name])
            check_arguments(documents[call.name], call.arguments)
        except Rejected as problem:
            return Finding("gold_call_valid", str(problem))
    unknown = {call.sub_question for call in environment.gold_plan} ^ set(_answers(environment))
    if unknown:
        return Finding("gold_call_valid", f"gold calls and sub-questions differ in {', '.join(sorted(unknown))}")
    planned = sorted((call.name, _answers(environment)[call.sub_question].answer) for call in environment.gold_plan)
    listed = sorted((name, answer) for name, answers in environment.unsolved_set.items() for answer in answers)
    return (
        None if planned == listed else Finding("gold_call_valid", "gold plan and unsolved_set list other sub-answers")
    )


# replay rules


def gold_plan_runs(environment: Environment, replay: Replay) -> Finding | None:
    """Every gold call runs."""
    for run in replay.runs:
        for name, result in run.items():
            if not result.ok:
                return Finding("gold_plan_runs", f"{name}: {result.status}: {result.output[:120]}", place=name)
    return None


def gold_plan_answers(environment: Environment, replay: Replay) -> Finding | None:
    """Every gold call returns its sub-answer under strict and published matching, in every order tried."""
    for item in environment.sub_questions:
        for run in replay.runs:
            output = run[item.id].output
            if not strict_match(item.answer, output) or not published_match(item.answer, output):
                message = f"{item.id}: {item.answer!r} is not in {output[:120]!r}"
                return Finding("gold_plan_answers", message, place=item.id)
    return None


def sub_answer_needs_its_call(environment: Environment, replay: Replay) -> Finding | None:
    """No other sub-question's gold call, and no other tool asked about the same entities, returns a sub-answer."""
    outputs = replay.runs[0] if replay.runs else {}
    # Most of these calls return one of a few error texts, so each distinct text is checked once.
    elsewhere = {result.output: result.name for result in replay.elsewhere if result.ok}
    for item in environment.sub_questions:
        for other, result in outputs.items():
            if other != item.id and strict_match(item.answer, result.output):
                message = f"the call of {other} also gives the answer of {item.id}"
                return Finding("sub_answer_needs_its_call", message, place=other)
        for output, name in elsewhere.items():
            if strict_match(item.answer, output):
                message = f"{name} also gives the answer of {item.id}"
                return Finding("sub_answer_needs_its_call", message, place=name)
    return None


def wrong_call_differs(environment: Environment, replay: Replay) -> Finding | None:
    """A call with a wrong entity or another choice returns an error or another value, under either matching."""
    for item in environment.sub_questions:
        for result in replay.wrong.get(item.id, ()):
            if published_match(item.answer, result.output) or (result.ok and strict_match(item.answer, result.output)):
                message = f"{item.id}: a wrong call also gives {item.answer!r}: {result.output[:120]}"
                return Finding("wrong_call_differs", message, place=item.id)
    return None


def deterministic(environment: Environment, replay: Replay) -> Finding | None:
    """The same call gives the same output in every run."""
    for item in environment.sub_questions:
        if len({run[item.id].output for run in replay.runs}) > 1:
            return Finding("deterministic", f"{item.id}: outputs differ between runs", place=item.id)
    return None


def calls_are_fast(environment: Environment, replay: Replay) -> Finding | None:
    """No call takes more than a second."""
    timed = [(result.seconds, name) for run in replay.runs for name, result in run.items()]
    slowest, name = max(timed, default=(0.0, ""))
    return Finding("calls_are_fast", f"a call took {slowest:.2f} s", place=name) if slowest > SLOW_S else None


def gold_plan_scores_one(environment: Environment, replay: Replay) -> Finding | None:
    """The gold plan in any order solves all sub-answers with as many calls: Solve-F1 = 1.0 under either matching.

    A call solves at most one answer of its own tool, the first that matches, as in the reward.
    """
    names = {call.sub_question: call.name for call in environment.gold_plan}
    for match in (published_match, strict_match):
        for run in replay.runs:
            left = {name: list(answers) for name, answers in environment.unsolved_set.items()}
            for sub_question, result in run.items():
                answers = left.get(names[sub_question], [])
                solved = next((answer for answer in answers if match(answer, result.output)), None)
                if solved is None:
                    message = f"the call of {sub_question} solves nothing ({match.__name__})"
                    return Finding("gold_plan_scores_one", message, place=sub_question)
                answers.remove(solved)
    calls = {call.sub_question: call for call in environment.gold_plan}
    for run in replay.runs:
        for tool, answers in environment.unsolved_set.items():
            asked = [sub_question for sub_question in run if names[sub_question] == tool]
            arguments = [calls[sub_question].arguments for sub_question in asked]
            solving = assign(answers, [run[sub_question] for sub_question in asked], "strict", arguments)
            for sub_question, solved_here in zip(asked, solving, strict=True):
                if not solved_here:
                    message = (
                        f"the call of {sub_question} solves nothing in strict: it is an error, an echo, or a list of "
                        "values"
                    )
                    return Finding("gold_plan_scores_one", message, place=sub_question)
    return None


STATIC_RULES: tuple[StaticRule, ...] = (
    schema_valid,
    names_match_code,
    source_is_pure,
    sub_answers_present,
    sub_answer_not_trivial,
    sub_answer_not_in_question,
    answer_present,
    scenario_shape,
    dependency_is_real,
    gold_call_valid,
    state_is_consistent,
    rules_are_stated,
    *CONSTRAINT_RULES,
)
REPLAY_RULES: tuple[ReplayRule, ...] = (
    gold_plan_runs,
    gold_plan_answers,
    sub_answer_needs_its_call,
    wrong_call_differs,
    deterministic,
    calls_are_fast,
    gold_plan_scores_one,
)


class _Trial:
    """The runs of one environment: its gold plan's, if it has one, and the probes of its tools."""

    def __init__(self, position: int, environment: Environment) -> None:
        self.position = position
        self.environment = environment
        self.replay = ReplayPlan(environment) if environment.gold_plan else None
        self.probes = ProbePlan(environment)
        self.jobs = [*(self.replay.jobs if self.replay else ()), *self.probes.jobs]
        self.again = self.probes.again
        self.stateful: StatefulTrial | None = None
        if environment.state is not None:
            self.stateful = StatefulTrial(environment, environment.state, self.jobs, RUNS if self.replay else 0)
            self.jobs = self.stateful.jobs
            self.again = on_tables(environment.state, self.again, alone=True)

    def broken(self, results: list[list[ToolResult]], others: list[list[ToolResult]]) -> tuple[list[Finding], bool]:
        """Findings of the replay and probe rules, and whether this machine may be the cause."""
        found: list[Finding | None] = []
        slow = False
        if self.stateful:
            state = self.stateful.state
            results, runs = self.stateful.read(results)
            others = [from_tables(state, self.probes.again, elsewhere).results for elsewhere in others]
            found += [rule(state, runs) for rule in STATE_RULES]
        if self.replay:
            replay = self.replay.read(results[: -len(self.probes.jobs)])
            found += [rule(self.environment, replay) for rule in REPLAY_RULES]
            slow = self.replay.machine_may_be_at_fault(replay)
        probed = self.probes.read(results[-len(self.probes.jobs) :], others)
        found += [rule(self.environment, probed) for rule in PROBE_RULES]
        slow = slow or any(item.status in MACHINE for calls in (*results, *others) for item in calls)
        return [item for item in found if item], slow


def validate_environments(environments: Sequence[Environment], sandbox: ToolSandbox) -> list[list[Finding]]:
    """Findings of every environment, in order. All runs of all environments go to the sandbox in one batch.

    A finding that this machine may cause (a slow call, a sandbox fault) counts only if a second run confirms it.
    """
    findings = [_broken_static(environment) for environment in environments]
    trials = [
        _Trial(position, environment)
        for position, environment in enumerate(environments)
        if not any(item.fatal for item in findings[position])
    ]
    for _ in range(TRIES):
        if not trials:
            break
        results = iter(sandbox.run_batch([job for trial in trials for job in trial.jobs]))
        again = [trial.again for trial in trials]
        others = zip(*(other.run_batch(again) for other in sandbox.other_surroundings()), strict=True)
        doubtful = []
        for trial, elsewhere in zip(trials, others, strict=True):
            broken, may_be_machine = trial.broken([next(results) for _ in trial.jobs], list(elsewhere))
            if broken and may_be_machine:
                doubtful.append((trial, broken))
            else:
                findings[trial.position] += broken
        trials = [trial for trial, _ in doubtful]
    else:
        for trial, broken in doubtful:
            findings[trial.position] += broken
    return findings


def _broken_static(environment: Environment) -> list[Finding]:
    return [broken for rule in STATIC_RULES if (broken := rule(environment)) is not None]


def _answers(environment: Environment) -> dict[str, SubQuestion]:
    return {item.id: item for item in environment.sub_questions}
