"""CCTU: tool use under constraints, by FTRL's first author: the same four scenarios, 200 cases, 12 constraints.

Inputs: a policy; a folder with CCTU's `input_data.jsonl` and `check_code/` (eval/constraints/cases.py).
Outputs, in --out: one row per case and trial, and `summary.json` by scenario:

| metric | 1 if |
| --- | --- |
| `sr` | all sub-answers were returned by tools, and a final answer that breaks no constraint ended the episode |
| `psr` | so, and no turn of the episode broke a constraint |
| `psr_published` | `psr`, ignoring calls of unknown tools and unreadable calls, as the authors' checker does |
| `all_solved` | all sub-answers were returned, whatever the constraints |
| `broke_resource`, `_behavior`, `_toolset`, `_response` | some turn broke a constraint of this dimension |

An episode follows CCTU: at most 20 turns, or fewer if the case says so. A call that breaks a constraint does not run;
its output says what it broke. A final answer that breaks one is sent back with the reason, and the model may go on.
The correctness of the final text is not judged, as published. The feedback has this project's wording, so numbers may
differ from the authors'. Validators and tools run in the sandbox; eval/constraints/checks.py says what is checked when.

The published cases have no gold calls, so the oracle plays only cases with `gold_turns` (this project's key: a list of
turns, each a list of calls or a text).

Example:
    python -m eval.cctu --policy hf:PATH --data ~/CCTU/data --trials 3 --out outputs/mine/cctu

Source: CCTU (arXiv 2603.15309); the repository Junjie-Ye/CCTU, `evaluation.py` (SR and PSR).
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import run_main
from env_construction.environment.matching import MATCHES, assign
from env_construction.sandbox.tool_sandbox import ToolCall, ToolResult, ToolSandbox, shared_sandbox
from eval.constraints.cases import CASES_FILE, Case, checks_sha256, read_cases
from eval.constraints.checks import DIMENSIONS, TurnChecks, Violation, seen_as_published
from eval.download import DATA
from eval.suites.games import GameFault, SuiteGame, conversation, game_player, with_messages
from eval.suites.results import Metric
from eval.suites.suite import run_suite, suite_parser
from reward.tool_calls import ParsedTurn, assistant_message, parse_turn, render_call, tool_messages
from train.policies.interface import Generation, Policy

SUITE = "cctu"
DEFAULT_DATA = str(DATA / "cctu")
HEADLINES = ("sr", "psr")
BROKE = tuple(f"broke_{dimension}" for dimension in DIMENSIONS)
METRICS: tuple[Metric, ...] = (
    *HEADLINES,
    "psr_published",
    "all_solved",
    "solve_rate",
    *BROKE,
    "turns",
    "calls",
    "completion_tokens",
)


class CctuGame(SuiteGame):
    """One case."""

    def __init__(self, case: Case, trial: int, match: str, sandbox: ToolSandbox) -> None:
        environment = case.environment
        super().__init__(environment.id, trial, conversation(environment.id, environment.messages, environment.tools))
        self._case, self._match, self._sandbox = case, match, sandbox
        self._checks = TurnChecks(case.rules, environment.tools, sandbox)
        self._unsolved = {tool: list(answers) for tool, answers in environment.unsolved_set.items()}
        self._violations: list[list[Violation]] = []
        self._statuses: list[list[str]] = []
        self._answered = False
        self._calls = 0
        if case.gold_turns:
            self.gold_turn = self._gold_turn

    def _gold_turn(self) -> str:
        turn = self._case.gold_turns[min(len(self._violations), len(self._case.gold_turns) - 1)]
        if isinstance(turn, str):
            return turn
        return "\n".join(render_call(ToolCall(call["name"], call["arguments"])) for call in turn)

    def hear(self, generation: Generation) -> None:
        turn = parse_turn(generation.text, "strict")
        broken = self._checks.check(turn)
        self._violations.append(broken)
        self._calls += len(turn.calls)
        messages = [assistant_message(turn)]
        if turn.calls:
            results = self._run(turn, broken)
            self._statuses.append([result.status for result in results])
            messages += tool_messages(turn, results)
        elif broken:
            self._statuses.append([])
            lines = [f"- {violation.text}" for violation in broken]
            messages.append({"role": "user", "content": "\n".join(["Your answer breaks constraints:", *lines])})
        else:
            self._statuses.append([])
            self._answered = True
        self.state = with_messages(self.state, *messages)
        self.done = self._answered or self._checks.last_round

    def _run(self, turn: ParsedTurn, broken: list[Violation]) -> list[ToolResult]:
        """One result per call. A call that breaks a constraint does not run; its output says why."""
        reasons: dict[int, list[str]] = {}
        for violation in broken:
            if violation.call is not None:
                reasons.setdefault(violation.call, []).append(violation.text)
        allowed = [call for place, call in enumerate(turn.calls) if place not in reasons]
        found = iter(self._sandbox.run(self._case.environment.codes, allowed))
        results = []
        for place, call in enumerate(turn.calls):
            if place in reasons:
                text = "\n".join(f"Constraint broken: {reason}" for reason in reasons[place])
                results.append(ToolResult(call.name, "refused", text, 0.0))
                continue
            result = next(found)
            if result.status == "fault":
                raise GameFault(result.output)
            results.append(result)
        self._solve(turn, results)
        return results

    def _solve(self, turn: ParsedTurn, results: list[ToolResult]) -> None:
        for tool in {call.name for call in turn.calls}:
            made = [
                (call, result)
                for call, result in zip(turn.calls, results, strict=True)
                if call.name == tool and result.status != "refused"
            ]
            answers = self._unsolved.get(tool, [])
            given = [call.arguments for call, _ in made]
            solved = {i for found in assign(answers, [result for _, result in made], self._match, given) for i in found}
            self._unsolved[tool] = [answer for place, answer in enumerate(answers) if place not in solved]

    def row(self, outcome: str) -> dict[str, Any]:
        total = self._case.environment.unsolved_count
        left = sum(len(answers) for answers in self._unsolved.values())
        broken = [violation for turn in self._violations for violation in turn]
        kinds = Counter(violation.kind for violation in broken)
        solved_all, clean = left == 0, not broken
        if outcome != "ended":
            failure = outcome
        elif not self._answered:
            failure = "max_rounds"
        elif not solved_all:
            failure = "unsolved"
        else:
            failure = "" if clean else "broke_constraint"
        return {
            "scenario": self._case.environment.scenario or self._case.environment.data_source,
            "sr": float(solved_all and self._answered),
            "psr": float(solved_all and self._answered and clean),
            "psr_published": float(solved_all and self._answered and not seen_as_published(broken)),
            "all_solved": float(solved_all),
            "solve_rate": 1.0 if not total else 1 - left / total,
            **{f"broke_{name}": float(any(kinds[k] for k in members)) for name, members in DIMENSIONS.items()},
            "calls": self._calls,
            "failure": failure,
            "broken": dict(kinds),
            "turn_scores": [
                {"status": statuses, "broken": [f"{violation.kind}: {violation.text}" for violation in turn]}
                for statuses, turn in zip(self._statuses, self._violations, strict=True)
            ],
        }


def parser() -> argparse.ArgumentParser:
    """The command-line parser of this suite."""
    made = suite_parser(__doc__, "python -m eval.cctu", data=DEFAULT_DATA)
    made.add_argument("--match", choices=MATCHES, default="published", help="how tool outputs match sub-answers")
    return made


def run(arguments: argparse.Namespace, policy: Policy | None = None) -> dict[str, Any]:
    """Play and score; returns the summary. A `policy` that is already loaded is used as it is. Raises BadInput."""
    folder = Path(arguments.data)
    cases = {case.environment.id: case for case in read_cases(folder, arguments.limit)}
    unchecked = Counter(name for case in cases.values() for name in case.rules.unchecked)
    if unchecked:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(unchecked.items()))
        print(f"note: constraints without a usable check file are not checked: {listed}")
    return run_suite(
        arguments,
        SUITE,
        case_ids=list(cases),
        play=game_player(
            arguments,
            lambda case, trial: CctuGame(cases[case], trial, arguments.match, shared_sandbox()),
            max_turns=10_000,  # each case has its own limit, at most MAX_ROUNDS
        ),
        metrics=METRICS,
        groups={"by_scenario": "scenario"},
        data_files=[folder / CASES_FILE],
        settings={
            "match": arguments.match,
            "checks_sha256": checks_sha256(folder),
        },
        shown=("sr", "psr", "psr_published", "all_solved", *BROKE),
        policy=policy,
        extra=lambda rows: {"unchecked": dict(unchecked)},
        system_messages=any(
            message["role"] == "system" for case in cases.values() for message in case.environment.messages
        ),
    )


def main() -> int:
    run(parser().parse_args())
    return 0


if __name__ == "__main__":
    run_main(main)
