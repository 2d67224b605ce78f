"""What every environment must pass, whoever wrote it: one function a rule, each rule with a name for the statistics.

Static rules read the record. Replay rules read what the sandbox returned for the gold plan (several times, in several
orders) and for calls about a wrong entity. No policy and no model is needed. Records without a gold plan (the published
data) are judged by the static rules, and what cannot be judged is said so (`gold_plan_absent`).

A finding is an `error` (the environment is rejected) or a `flag` (kept, counted). Issue 4, "What every environment must pass".
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from env_construction.author import Rejected
from env_construction.document_generation import check_arguments, check_document
from env_construction.localized_deployment import source_problem
from env_construction.matching import published_match, strict_match
from env_construction.scenario_decomposition import answer_in_arguments, check_shape
from env_construction.schema import Environment, GoldCall, SubQuestion
from env_construction.tool_sandbox import SandboxJob, ToolCall, ToolResult, ToolSandbox

SLOWEST_CALL_S = 1.0
RUNS = 3


@dataclass(frozen=True)
class Finding:
    """A broken rule. `fatal` findings reject the environment, others only flag it."""

    rule: str
    message: str
    fatal: bool = True


@dataclass
class Replay:
    """What the sandbox returned. `runs` holds the gold plan's results by sub-question id, once for each run; `wrong` the
    results of each sub-question's call with a wrong entity."""

    runs: list[dict[str, ToolResult]] = field(default_factory=list)
    wrong: dict[str, list[ToolResult]] = field(default_factory=dict)


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
    """Tools, codes and the sub-answers' tools go by the same names, each once."""
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
            return Finding("source_is_pure", f"{problem[0]}: {problem[1]}")
    return None


def sub_answers_present(environment: Environment) -> Finding | None:
    """There is something to solve, and no sub-answer is empty."""
    answers = [answer for listed in environment.unsolved_set.values() for answer in listed]
    if not answers:
        return Finding("sub_answers_present", "no sub-answer at all")
    if any(not isinstance(answer, str) or not answer.strip(" ,") for answer in answers):
        return Finding("sub_answers_present", "an empty sub-answer is matched by any output")
    return None


def sub_answer_not_trivial(environment: Environment) -> Finding | None:
    """Flagged: `yes`, one digit, one letter: published matching finds them in nearly any output."""
    for listed in environment.unsolved_set.values():
        for answer in listed:
            if len(answer.strip()) < 2 or answer.strip().lower() in ("yes", "no", "true", "false", "none", "null"):
                return Finding("sub_answer_not_trivial", f"{answer!r} is matched by chance", fatal=False)
    return None


def sub_answer_not_in_question(environment: Environment) -> Finding | None:
    """No sub-answer stands in the question. An error with a gold plan; flagged in others' data."""
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
    """The later call cannot be written without the earlier answer: it is among the arguments, and not in the question."""
    answers = {item.id: item.answer for item in environment.sub_questions}
    calls = {call.sub_question: call for call in environment.gold_plan}
    for item in environment.sub_questions:
        if item.id not in calls:
            continue
        for other in item.depends_on:
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
            check_arguments(documents[call.name], call.arguments)
        except Rejected as problem:
            return Finding("gold_call_valid", str(problem))
    planned = sorted((call.name, _answers(environment)[call.sub_question].answer) for call in environment.gold_plan)
    listed = sorted((name, answer) for name, answers in environment.unsolved_set.items() for answer in answers)
    return (
        None if planned == listed else Finding("gold_call_valid", "gold plan and unsolved_set list other sub-answers")
    )


# replay rules


def gold_plan_runs(environment: Environment, replay: Replay) -> Finding | None:
    """Every gold call executes."""
    for run in replay.runs:
        for name, result in run.items():
            if not result.ok:
                return Finding("gold_plan_runs", f"{name}: {result.status}: {result.output[:120]}")
    return None


def gold_plan_answers(environment: Environment, replay: Replay) -> Finding | None:
    """Every gold call yields its sub-answer under strict and under published matching, in every order tried."""
    for item in environment.sub_questions:
        for run in replay.runs:
            output = run[item.id].output
            if not strict_match(item.answer, output) or not published_match(item.answer, output):
                return Finding("gold_plan_answers", f"{item.id}: {item.answer!r} is not in {output[:120]!r}")
    return None


def sub_answer_needs_its_call(environment: Environment, replay: Replay) -> Finding | None:
    """No gold call of one sub-question also yields the answer of another."""
    outputs = replay.runs[0] if replay.runs else {}
    for item in environment.sub_questions:
        for other, result in outputs.items():
            if other != item.id and strict_match(item.answer, result.output):
                return Finding("sub_answer_needs_its_call", f"the call of {other} also gives the answer of {item.id}")
    return None


def wrong_entity_differs(environment: Environment, replay: Replay) -> Finding | None:
    """A call about a wrong entity gives an error or another value."""
    for item in environment.sub_questions:
        for result in replay.wrong.get(item.id, ()):
            if result.ok and strict_match(item.answer, result.output):
                return Finding("wrong_entity_differs", f"{item.id}: a wrong entity also gives {item.answer!r}")
    return None


def deterministic(environment: Environment, replay: Replay) -> Finding | None:
    """The same call gives the same output in every run."""
    for item in environment.sub_questions:
        if len({run[item.id].output for run in replay.runs}) > 1:
            return Finding("deterministic", f"{item.id}: outputs differ between runs")
    return None


def calls_are_fast(environment: Environment, replay: Replay) -> Finding | None:
    """No call takes over a second."""
    slowest = max((result.seconds for run in replay.runs for result in run.values()), default=0.0)
    return Finding("calls_are_fast", f"a call took {slowest:.2f} s") if slowest > SLOWEST_CALL_S else None


def gold_plan_scores_one(environment: Environment, replay: Replay) -> Finding | None:
    """Replaying the gold plan solves all sub-answers with as many calls: Solve-F1 = 1.0 (a call solves one answer of its tool)."""
    for match in (published_match, strict_match):
        left = {name: list(answers) for name, answers in environment.unsolved_set.items()}
        for call in environment.gold_plan:
            output = replay.runs[0][call.sub_question].output
            answers = left.get(call.name, [])
            solved = next((answer for answer in answers if match(answer, output)), None)
            if solved is None:
                return Finding(
                    "gold_plan_scores_one", f"the call of {call.sub_question} solves nothing ({match.__name__})"
                )
            answers.remove(solved)
        if any(left.values()):
            return Finding("gold_plan_scores_one", f"unsolved after the gold plan: {left}")
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
)
REPLAY_RULES: tuple[ReplayRule, ...] = (
    gold_plan_runs,
    gold_plan_answers,
    sub_answer_needs_its_call,
    wrong_entity_differs,
    deterministic,
    calls_are_fast,
    gold_plan_scores_one,
)


def validate_environments(environments: Sequence[Environment], sandbox: ToolSandbox) -> list[list[Finding]]:
    """Findings of every environment, in order. All runs of all environments go to the sandbox in one batch."""
    findings = [_broken_static(environment) for environment in environments]
    jobs: list[SandboxJob] = []
    shapes: list[tuple[int, int]] = []
    for environment, found in zip(environments, findings, strict=True):
        start = len(jobs)
        if environment.gold_plan and not any(item.fatal for item in found):
            jobs += _jobs(environment)
        shapes.append((start, len(jobs)))
    results = sandbox.run_batch(jobs) if jobs else []
    for environment, found, (start, end) in zip(environments, findings, shapes, strict=True):
        if end > start:
            replay = _replay(environment, results[start:end])
            for rule in REPLAY_RULES:
                broken = rule(environment, replay)
                if broken:
                    found.append(broken)
                    break
    return findings


def _broken_static(environment: Environment) -> list[Finding]:
    return [broken for rule in STATIC_RULES if (broken := rule(environment)) is not None]


def _answers(environment: Environment) -> dict[str, SubQuestion]:
    return {item.id: item for item in environment.sub_questions}


def _orders(environment: Environment) -> list[list[GoldCall]]:
    """The gold plan in RUNS orders that respect the dependencies: as written, latest-possible first, and shuffled."""
    plan = environment.gold_plan
    depends = {item.id: set(item.depends_on) for item in environment.sub_questions}
    orders = [plan]
    rng = random.Random(f"{environment.id}:orders")
    for number in range(1, RUNS):
        waiting, done, order = list(plan), set[str](), list[GoldCall]()
        while waiting:
            ready = [call for call in waiting if depends.get(call.sub_question, set()) <= done] or waiting
            call = ready[-1] if number == 1 else rng.choice(ready)
            waiting.remove(call)
            done.add(call.sub_question)
            order.append(call)
        orders.append(order)
    return orders


def _wrong_calls(environment: Environment, call: GoldCall) -> list[ToolCall]:
    """The call with an unknown entity, and with the entity of another gold call."""
    documents = {tool.name: tool for tool in environment.tools}
    free = [
        name
        for name, value in call.arguments.items()
        if isinstance(value, str) and "enum" not in documents[call.name].parameters["properties"].get(name, {})
    ]
    if not free:
        return []
    mentioned = [
        value
        for other in environment.gold_plan
        for name, value in other.arguments.items()
        if isinstance(value, str) and "enum" not in documents[other.name].parameters["properties"].get(name, {})
    ]
    others = [value for value in mentioned if value not in call.arguments.values()]
    swaps = ["Qwxzvu", *others[:1]]
    return [ToolCall(call.name, {**call.arguments, free[0]: swap}) for swap in swaps]


def _jobs(environment: Environment) -> list[SandboxJob]:
    needed = {call.name: environment.codes[call.name] for call in environment.gold_plan}
    jobs = [
        SandboxJob(needed, [ToolCall(call.name, call.arguments) for call in order]) for order in _orders(environment)
    ]
    wrong = [swap for call in environment.gold_plan for swap in _wrong_calls(environment, call)]
    return [*jobs, SandboxJob(needed, wrong)]


def _replay(environment: Environment, results: Sequence[list[ToolResult]]) -> Replay:
    replay = Replay()
    for order, outcome in zip(_orders(environment), results, strict=False):
        replay.runs.append({call.sub_question: result for call, result in zip(order, outcome, strict=True)})
    remaining: list[Any] = list(results[RUNS])
    for call in environment.gold_plan:
        count = len(_wrong_calls(environment, call))
        replay.wrong[call.sub_question], remaining = remaining[:count], remaining[count:]
    return replay
