"""ToolHop: multi-hop questions with local tools, in three settings: Direct (no tools), Mandatory (tools must be used), Free.

Inputs: a policy, the questions (JSONL, or one JSON list). Outputs, in --out: one row a question, setting and trial; `summary.json` with
answer correctness (AC) as the plain mean of the settings, intervals clustered by question, and by setting.

Two readings of AC, side by side (defect 9):
- `ac_published`: the answer's ", "-parts are substrings of the whole final message (thinking included), or, if that message
  is wrong but not empty, of the last tool output right before it. An episode that is cut off while it still calls tools is wrong.
- `ac_strict`: the final message alone counts, without thinking; the answer stands in its last `<answer>` (in all of it, where there is none)
  as whole tokens, numbers by value and dates by day. A message with a call in it is no final message.
One episode is scored both ways; `--match` says how its turns are read while it is played.

Tool code runs in the sandbox. Both layouts of the data are read (`eval/suites/toolhop_questions.py`). The prompts give the published instructions in the published order, in words of our own; a JSON file
`{"direct": ..., "mandatory": ..., "free": ...}` with `{question}` in each replaces them (--prompts), for numbers with the published wording.

The oracle says the answer at once: there are no gold calls in this data set, so it checks that every answer can be scored, not the tools.

Example:
    python -m eval.download toolhop
    python -m eval.toolhop --policy hf:PATH --out outputs/mine/toolhop

Source: paper/README.md, "Evaluation" (995 questions, at most 9 turns, mean of three settings).
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, read_text, run_main
from env_construction.environment.matching import MATCHES, answer_in_text, published_match
from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolResult, ToolSandbox, shared_sandbox
from eval.download import published_file
from eval.suites.results import GroupedMean, Metric
from eval.suites.suite import DataMissing, GameFault, conversation, play_games, run_suite, suite_parser, with_messages
from eval.suites.toolhop_questions import Question, read_questions
from reward.tool_calls import CALL_MARKS, ParsedTurn, assistant_message, parse_turn, tool_messages
from train.policies.interface import Generation, Policy

SUITE = "toolhop"
SETTINGS = ("direct", "mandatory", "free")
MAX_TURNS = 9
PUBLISHED = "ftrl/ToolHop.jsonl"
DEFAULT_DATA = f"data/{PUBLISHED}"
READINGS = ("ac_published", "ac_strict")
HEADLINES = READINGS
METRICS: tuple[Metric, ...] = tuple(
    GroupedMean(column, column, "setting", of=SETTINGS)
    for column in (*READINGS, "turns", "calls", "failed_calls", "completion_tokens")
)

_FORMAT = (
    "Write a date as YYYY-MM-DD (ISO standard), a name as Firstname Lastname, and anything with a number in it as that number "
    "alone, in digits, without leading zeros.\n\n"
    "Give the final answer in this form: <answer>final answer</answer>\nKeep it as short as you can.\nQuestion: {question}"
)
PROMPTS = {
    "direct": f"Answer the following question briefly.\n{_FORMAT}",
    "mandatory": (
        "Answer the following question briefly, with the tools that you are given.\nCall a tool at every step: do not rely on "
        f"what you know yourself, and take the final answer, too, from what a tool returns.\n{_FORMAT}"
    ),
    "free": f"Answer the following question briefly; you are given some tools.\n{_FORMAT}",
}
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)


def published_correct(answer: str, final: str, last_tool_output: str | None) -> bool:
    """The authors' test: the answer in a final message that is not empty, else in the tool output right before it (defect 9)."""
    if not final:
        return False
    return published_match(answer, final) or (
        last_tool_output is not None and published_match(answer, last_tool_output)
    )


def strict_correct(answer: str, turn: ParsedTurn) -> bool:
    """The answer in the last `<answer>` of a final message (in all of it, where there is none), as whole tokens, thinking aside."""
    if turn.calls or turn.malformed or any(mark in turn.content for mark in CALL_MARKS):
        return False
    tagged = _ANSWER.findall(turn.content)
    return answer_in_text(answer, tagged[-1] if tagged else turn.content, "strict")


class ToolHopGame:
    """One question in one setting. See eval.suites.suite.Game."""

    def __init__(
        self, question: Question, setting: str, trial: int, prompt: str, match: str, sandbox: ToolSandbox | None
    ) -> None:
        self.id = f"{question.id}/{setting}"
        self.trial = trial
        self.done = False
        self._question, self._setting, self._match, self._sandbox = question, setting, match, sandbox
        tools = () if setting == "direct" else question.tools
        text = prompt.replace("{question}", question.question)
        self.state: Environment = conversation(self.id, [{"role": "user", "content": text}], tools)
        self._calls = self._failed_calls = 0
        self._last_outputs: list[str] = []
        self._statuses: list[list[str]] = []
        self._final: Generation | None = None

    def gold_turn(self) -> str:
        return f"<answer>{self._question.answer}</answer>"

    def hear(self, generation: Generation) -> None:
        turn = parse_turn(generation.text, self._match)
        results: list[ToolResult] = []
        ends = not turn.calls or self._setting == "direct"
        if not ends:
            results = (self._sandbox or shared_sandbox()).run(self._question.codes, turn.calls)
            broken = next((result.output for result in results if result.status == "fault"), None)
            if broken is not None:
                raise GameFault(broken)
        self._calls += len(turn.calls)
        self._failed_calls += sum(not result.ok for result in results)
        self._statuses.append([result.status for result in results])
        if ends:
            self._final, self.done = generation, True
            self.state = with_messages(self.state, assistant_message(turn))
        else:
            self._last_outputs = [result.output for result in results]
            self.state = with_messages(self.state, assistant_message(turn), *tool_messages(turn, results))

    def row(self, outcome: str) -> dict[str, Any]:
        published = strict = False
        if self._final is not None:
            answer, last = self._question.answer, self._last_outputs[-1] if self._last_outputs else None
            published = published_correct(answer, published_final(self._final.text), last)
            strict = strict_correct(answer, parse_turn(self._final.text, "strict"))
        return {
            "cluster": self._question.id,
            "setting": self._setting,
            "domain": self._question.domain,
            "ac_published": float(published),
            "ac_strict": float(strict),
            "calls": self._calls,
            "failed_calls": self._failed_calls,
            "failure": self._failure(outcome, strict),
            "turn_scores": [{"status": statuses} for statuses in self._statuses],
        }

    def _failure(self, outcome: str, correct: bool) -> str:
        """What went wrong, the first that applies, by the strict reading; empty for a right answer."""
        if self._final is None:
            return outcome
        if correct:
            return ""
        turn = parse_turn(self._final.text, "strict")
        if self._final.truncated:
            return "truncated"
        if turn.calls or turn.malformed or any(mark in turn.content for mark in CALL_MARKS):
            return "malformed"
        if not turn.content:
            return "empty"
        return "no_calls" if self._setting != "direct" and not self._calls else "wrong_answer"


def published_final(text: str) -> str:
    """What the authors' parser leaves as a final message: what stands before the first call, all of a text without calls."""
    turn = parse_turn(text, "published")
    return turn.text[: turn.text.find("<tool_call>")].strip() if turn.calls else turn.text


def read_prompts(path: str | None) -> dict[str, str]:
    """The prompts of the settings, from a JSON file if one is given. Raises BadInput."""
    if path is None:
        return PROMPTS
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: expected a JSON file of prompts ({error})") from None
    for name in SETTINGS:
        if not isinstance(found, dict) or "{question}" not in str(found.get(name, "")):
            raise BadInput(f"{path}: key {name!r}: expected a prompt with {{question}} in it")
    return {name: str(found[name]) for name in SETTINGS}


def parser() -> argparse.ArgumentParser:
    made = suite_parser(__doc__, "python -m eval.toolhop", data=DEFAULT_DATA)
    made.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    made.add_argument("--max-turns", type=int, default=MAX_TURNS)
    made.add_argument("--match", choices=MATCHES, default="published", help="how turns are read while playing")
    made.add_argument("--prompts", default=None, help="JSON file with other prompts")
    return made


def run(arguments: argparse.Namespace, policy: Policy | None = None) -> dict[str, Any]:
    """Play what is left and return the summary. Raises DataMissing, BadInput."""
    if arguments.data == DEFAULT_DATA:
        path = published_file(PUBLISHED)
    else:
        path = Path(arguments.data)
        if not path.is_file():
            raise DataMissing(f"{path}: no such file; `python -m eval.download toolhop` fetches the questions")
    settings = [name for name in SETTINGS if name in arguments.settings]
    prompts = read_prompts(arguments.prompts)
    questions = {question.id: question for question in read_questions(path, arguments.limit)}
    cases = {f"{name}/{setting}": (name, setting) for name in questions for setting in settings}

    def make_game(case_id: str, trial: int) -> ToolHopGame:
        name, setting = cases[case_id]
        return ToolHopGame(questions[name], setting, trial, prompts[setting], arguments.match, None)

    return run_suite(
        arguments,
        SUITE,
        case_ids=list(cases),
        play=lambda policy, plays, on_row: play_games(
            policy,
            plays,
            make_game,
            seed=arguments.seed,
            in_flight=arguments.in_flight,
            max_turns=arguments.max_turns,
            on_row=on_row,
        ),
        metrics=METRICS,
        groups={"by_setting": "setting"},
        data_files=[path],
        settings={
            "settings": settings,
            "max_turns": arguments.max_turns,
            "match": arguments.match,
            "prompts": {name: prompts[name] for name in settings},
        },
        shown=READINGS,
        policy=policy,
        extra=lambda rows: {
            "mean": f"plain mean of the settings {', '.join(settings)}; the settings of a question are one cluster"
        },
    )


def main() -> int:
    run(parser().parse_args())
    return 0


if __name__ == "__main__":
    run_main(main)
