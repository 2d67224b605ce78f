"""Berkeley function calling (BFCL v4) from the PyPI package `bfcl-eval`: its data, tools and checkers, offline.

Inputs: a policy; the data are part of the package.
Outputs, in --out: one row per case, `summary.json` with accuracy by category and the package's own aggregates:

| aggregate | mean of |
| --- | --- |
| `non_live_ast` | simple (mean of Python, Java, JavaScript), multiple, parallel, parallel multiple, equally |
| `live_ast` | all live cases: the four categories weighted by their sizes in the package, whatever --limit |
| `multi_turn` | the four categories, equally; each is also shown separately |
| `irrelevance` | `irrelevance` and `live_irrelevance`, equally, whatever their sizes |
| `relevance` | `live_relevance` |

An aggregate with missing categories has no value; `partial` in the summary then holds the mean of the measured ones.
The package's overall accuracy is not reported: 40% of it comes from the agentic categories, most of which this suite
does not run. `memory` is the mean of two of the package's three.

| categories | a case | correct if |
| --- | --- | --- |
| `simple_*`, `multiple`, `parallel*`, `live_*` | one turn | the package's AST checker accepts the calls |
| `*irrelevance` | one turn | no call is made |
| `live_relevance` | one turn | a call is made |
| `multi_turn_*` | several user turns of up to 20 steps, stateful tools | state and outputs match the gold calls' |

The model receives the tools natively (function calling), as in the package's OpenAI-style handlers: JSON Schema types,
and underscores for dots in names. This project's strict parser reads the calls. As in the package, a model turn without
a readable call ends the user's turn.

The group `memory` (`--categories all,memory`) adds `memory_kv` and `memory_rec_sum`: a question is answered from a
memory that the same model filled in 37 conversations (eval/bfcl_support/memory.py). It is not part of `all`, because
these take 323 user turns per category and trial. Not run: web search (needs a network), the third memory (needs an
embedding model), and format sensitivity (a prompt study). eval/bfcl_support/checker.py explains how a model's calls run
without passing its text to `eval`.

The oracle makes the gold calls. It scores 100% on every category except for seven of the 3,641 single-turn cases, whose
gold no call can satisfy (`UNSOLVABLE`). They are kept, because published accuracies count them. The random policy calls
some tool in every first turn. It scores 100% on relevance and 0% on irrelevance, except for cases that offer no tool.
Elsewhere it stays below 3%; its hits are cases that ask for one function with one or two arguments from the question.

Example:
    python -m eval.bfcl --policy hf:PATH --out outputs/mine/bfcl --categories multi_turn --limit 50

Source: paper/README.md, "Who uses it now"; bfcl-eval 2026.3.23, `eval_checker/eval_runner.py`,
`model_handler/base_handler.py`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, run_main
from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolCall
from eval.bfcl_support.memory import MemoryCategory, phases_first
from eval.bfcl_support.process import BfclProcess, NoAnswer, ToolState
from eval.suites.games import SuiteGame, conversation, game_player, with_messages
from eval.suites.results import GroupedMean, Metric
from eval.suites.suite import DataMissing, run_suite, suite_parser
from reward.tool_calls import assistant_message, parse_turn, render_call
from train.policies.interface import Generation, Policy

SUITE = "bfcl"
SIMPLE = ("simple_python", "simple_java", "simple_javascript")
NON_LIVE = (*SIMPLE, "multiple", "parallel", "parallel_multiple")
LIVE_SIZES = {"live_simple": 258, "live_multiple": 1053, "live_parallel": 16, "live_parallel_multiple": 24}
LIVE = tuple(LIVE_SIZES)
RELEVANCE = ("irrelevance", "live_irrelevance", "live_relevance")
MULTI_TURN = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
MEMORY = ("memory_kv", "memory_rec_sum")
CATEGORIES = (*NON_LIVE, *LIVE, *RELEVANCE, *MULTI_TURN)
GROUPS = {
    "all": CATEGORIES,
    "ast": (*NON_LIVE, *LIVE),
    "single_turn": (*NON_LIVE, *LIVE, *RELEVANCE),
    "non_live": NON_LIVE,
    "live": LIVE,
    "multi_turn": MULTI_TURN,
    "memory": MEMORY,
}
UNSOLVABLE = {
    "simple_java_36": "the gold list holds a number and a boolean, which the checker's Java parser returns as strings",
    "simple_java_64": "the gold is a string instead of a list of accepted strings, so its characters are compared",
    "simple_java_65": "same as simple_java_36",
    "live_simple_106-63-0": "a required parameter has no accepted value",
    "live_simple_112-68-0": "same as live_simple_106-63-0",
    "live_multiple_862-181-3": "the gold call has a parameter that the function lacks",
    "live_multiple_964-207-0": "same as live_multiple_862-181-3",
}
MAX_STEPS = 20  # per user turn; one more step fails the case
ADDED_FUNCTIONS = "I have updated some more functions you can choose from. What about now?"
HEADLINES = ("non_live_ast", "live_ast", "multi_turn", "irrelevance", "relevance")


def _mean(name: str, weights: Mapping[str, float]) -> GroupedMean:
    return GroupedMean(name, "correct", "category", weights)


METRICS: tuple[Metric, ...] = (
    _mean("non_live_ast", {c: 1 / 12 if c in SIMPLE else 1 / 4 for c in NON_LIVE}),
    _mean("live_ast", {c: size / sum(LIVE_SIZES.values()) for c, size in LIVE_SIZES.items()}),
    _mean("multi_turn", dict.fromkeys(MULTI_TURN, 1 / 4)),
    _mean("irrelevance", dict.fromkeys(("irrelevance", "live_irrelevance"), 1 / 2)),
    _mean("relevance", {"live_relevance": 1.0}),
    _mean("memory", dict.fromkeys(MEMORY, 1 / 2)),
    *(_mean(category, {category: 1.0}) for category in MULTI_TURN),
    "correct",
    "turns",
    "calls",
    "completion_tokens",
)


class SingleTurnGame(SuiteGame):
    """One turn; its calls are checked together."""

    def __init__(self, case: Mapping[str, Any], category: str, trial: int, bfcl: BfclProcess) -> None:
        super().__init__(str(case["id"]), trial, _opening(case))
        self._gold, self._category, self._bfcl = case["gold"], category, bfcl
        self._verdict = {"valid": False, "error_type": "nothing_said"}
        self._calls = self._malformed = 0

    def gold_turn(self) -> str:
        return _rendered(self._gold) or "None of these functions can do that."

    def hear(self, generation: Generation) -> None:
        turn = parse_turn(generation.text, "strict")
        calls = [{"name": call.name, "arguments": call.arguments} for call in turn.calls]
        self._calls, self._malformed = len(calls), len(turn.malformed)
        self.state = with_messages(self.state, assistant_message(turn))
        self.done = True
        try:
            self._verdict = self._bfcl.ask("check_single", id=self.id, category=self._category, calls=calls)
        except NoAnswer:
            self._verdict = {"valid": False, "error_type": "checker_timeout"}

    def row(self, outcome: str) -> dict[str, Any]:
        valid = outcome == "ended" and bool(self._verdict["valid"])
        failure = outcome if outcome != "ended" else str(self._verdict["error_type"])
        if failure and self._malformed and not self._calls:
            failure = "malformed"
        return _columns(self._category, valid, failure, self._calls)


class MultiTurnGame(SuiteGame):
    """Several user turns on tools with a state. The model's first answer without a call ends a user turn."""

    def __init__(self, case: Mapping[str, Any], category: str, trial: int, bfcl: BfclProcess) -> None:
        super().__init__(str(case["id"]), trial, _opening(case))
        self._case, self._category = case, category
        self._tools = ToolState(bfcl, self.id)
        self._turns: list[list[list[dict[str, Any]]]] = [[]]
        self._calls = self._cut = 0
        self._forced = False
        self._gold_made = False

    def gold_turn(self) -> str:
        self._gold_made = not self._gold_made
        calls = self._case["gold"][len(self._turns) - 1] if self._gold_made else []
        return _rendered(calls) or "That is all that I can do now."

    def hear(self, generation: Generation) -> None:
        turn = parse_turn(generation.text, "strict")
        self.state = with_messages(self.state, assistant_message(turn))
        if not turn.calls:
            self._next_user_turn()
            return
        step = []
        for call in turn.calls:
            output, ended = self._tools.call(call.name, call.arguments)
            # the checker must not rerun a call that was killed
            step.append({"name": call.name if ended else "", "arguments": call.arguments if ended else {}})
            self._cut += not ended
            self.state = with_messages(self.state, {"role": "tool", "name": call.name, "content": output})
        self._calls += len(step)
        self._turns[-1].append(step)
        if len(self._turns[-1]) > MAX_STEPS:
            self._forced = self.done = True

    def _next_user_turn(self) -> None:
        self._gold_made = False
        place = len(self._turns)
        if place == len(self._case["questions"]):
            self.done = True
            return
        self._turns.append([])
        messages = self._case["questions"][place]
        if added := self._case["held_out"].get(str(place)):
            tools = [*self.state.tools, *conversation(self.id, [], added).tools]
            self.state = self.state.model_copy(update={"tools": tools})
            messages = [{"role": "user", "content": ADDED_FUNCTIONS}]
        self.state = with_messages(self.state, *messages)

    def row(self, outcome: str) -> dict[str, Any]:
        if outcome != "ended" or self._forced:
            self._tools.drop()
            valid, failure = False, "multi_turn:force_terminated" if self._forced else outcome
        else:
            valid, failure = self._tools.check(self._turns)
        row = _columns(self._category, valid, failure, self._calls)
        return row | {"user_turns": len(self._turns), "calls_cut": self._cut}


def _columns(category: str, valid: bool, failure: str, calls: int) -> dict[str, Any]:
    return {
        "category": category,
        "failure": failure,
        "calls": calls,
        "correct": valid,
    }


def _opening(case: Mapping[str, Any]) -> Environment:
    return conversation(str(case["id"]), case["questions"][0], case["tools"])


def _rendered(calls: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(render_call(ToolCall(call["name"], call["arguments"])) for call in calls)


def package_folder() -> Path:
    """Where the installed package is. Raises DataMissing if it is not installed."""
    found = importlib.util.find_spec("bfcl_eval")
    if found is None or found.origin is None:
        raise DataMissing("the package bfcl-eval is not installed; bash setup.sh installs it (its data are in it)")
    return Path(found.origin).parent


def chosen_categories(text: str) -> list[str]:
    """The categories of a comma-separated list of categories and groups, in the standard order. Raises BadInput."""
    chosen: set[str] = set()
    for name in text.split(","):
        if name not in GROUPS and name not in (*CATEGORIES, *MEMORY):
            known = ", ".join((*GROUPS, *CATEGORIES, *MEMORY))
            raise BadInput(f"--categories: unknown {name!r}; expected some of {known}")
        chosen |= set(GROUPS.get(name, (name,)))
    if "memory_kv" in chosen and importlib.util.find_spec("rank_bm25") is None:
        raise DataMissing("memory_kv needs the package rank-bm25: install it, or leave this category out")
    return [category for category in (*CATEGORIES, *MEMORY) if category in chosen]


def _data_files(data: Path, categories: Sequence[str]) -> list[Path]:
    files = [data / f"BFCL_v4_{category}.json" for category in categories if category not in MEMORY]
    if len(files) < len(categories):
        files += [data / "BFCL_v4_memory.json", *sorted((data / "memory_prereq_conversation").glob("*.json"))]
    return files


def parser() -> argparse.ArgumentParser:
    """The command-line parser of this suite."""
    flags = suite_parser(__doc__, "python -m eval.bfcl", data="bfcl-eval")
    flags.add_argument(
        "--categories", default="all", help=f"comma-separated: {', '.join(GROUPS)}, or single categories"
    )
    return flags


def run(arguments: argparse.Namespace, policy: Policy | None = None) -> dict[str, Any]:
    """Play and score; returns the summary. A `policy` that is already loaded is used as it is. Raises BadInput."""
    if arguments.data != "bfcl-eval":
        raise BadInput(
            f"--data {arguments.data}: expected bfcl-eval; leave out --data, since the data are in that package"
        )
    data = package_folder() / "data"
    categories = chosen_categories(arguments.categories)
    with BfclProcess() as bfcl:
        cases: dict[str, tuple[str, dict[str, Any]]] = {}
        memories = {name: MemoryCategory.load(bfcl, name, arguments.limit) for name in categories if name in MEMORY}
        for name, memory in memories.items():
            cases |= {case: (name, {}) for case in (*memory.conversations, *memory.questions)}
        for category in [name for name in categories if name not in MEMORY]:
            found = bfcl.ask("cases", category=category, limit=arguments.limit)
            cases |= {case["id"]: (category, case) for case in found}

        def new_game(case_id: str, trial: int) -> SuiteGame:
            category, case = cases[case_id]
            if category in memories:
                return memories[category].game(case_id, trial, bfcl, MAX_STEPS)
            kind = MultiTurnGame if category in MULTI_TURN else SingleTurnGame
            return kind(case, category, trial, bfcl)

        return run_suite(
            arguments,
            SUITE,
            case_ids=list(cases),
            # no limit here: the games limit the user turns and their steps
            play=phases_first(
                Path(arguments.out), list(memories.values()), game_player(arguments, new_game, max_turns=10_000)
            ),
            metrics=METRICS,
            groups={"by_category": "category"},
            data_files=_data_files(data, categories),
            settings={"categories": categories, "bfcl_eval": importlib.metadata.version("bfcl-eval")},
            shown=("correct", *HEADLINES),
            policy=policy,
            system_messages=bool(memories)
            or any(
                message["role"] == "system"
                for _, case in cases.values()
                for turn in case.get("questions", ())
                for message in turn
            ),
        )


def main() -> int:
    run(parser().parse_args())
    return 0


if __name__ == "__main__":
    run_main(main)
