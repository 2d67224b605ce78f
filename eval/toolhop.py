"""ToolHop: multi-hop questions with local tools; settings Direct (no tools), Mandatory (tools required) and Free.

Inputs: a policy, the questions (JSONL, or one JSON list).
Outputs, in --out: one row per question, setting and trial; `summary.json` with answer correctness (AC) as the plain
mean of the settings, intervals clustered by question, and results by setting.

Two readings of AC are reported (defect 9):
- `ac_published`: the ", "-separated parts of the answer are substrings of the full final message (thinking included).
  If that message is wrong but not empty, the last tool output right before it counts too. An episode that is cut off
  while it still calls tools is wrong.
- `ac_strict`: only the final message counts, without thinking. The answer must appear in its last `<answer>` (or
  anywhere in the message if it has none) as whole tokens, with numbers compared by value and dates by day. A message
  that contains a call is not a final message.

Each episode is scored both ways; `--match` sets how its turns are parsed during play.

Tool code runs in the sandbox. Both layouts of the data are supported (`eval/suites/toolhop_questions.py`). The prompts
give the published instructions in the published order, in this project's words. For numbers with the published wording,
pass --prompts with a JSON file `{"direct": ..., "mandatory": ..., "free": ...}`, each with `{question}` in it.

The oracle says the answer at once, because the data set has no gold calls. It thus checks that every answer can be
scored, not the tools.

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
from env_construction.sandbox.tool_sandbox import ToolResult, ToolSandbox, shared_sandbox
from eval.download import published_file
from eval.suites.games import GameFault, SuiteGame, conversation, game_player, with_messages
from eval.suites.results import GroupedMean, Metric
from eval.suites.suite import DataMissing, run_suite, suite_parser
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
    "Write a date as YYYY-MM-DD (ISO standard), a name as Firstname Lastname, "
    "and anything with a number in it as that number alone, in digits, without leading zeros.\n\n"
    "Give the final answer in this form: <answer>final answer</answer>\nKeep it as short as you can.\n"
    "Question: {question}"
)
PROMPTS = {
    "direct": f"Answer the following question briefly.\n{_FORMAT}",
    "mandatory": (
        "Answer the following question briefly, with the tools that you are given.\n"
        "Call a tool at every step: do not rely on "
        f"what you know yourself, and take the final answer, too, from what a tool returns.\n{_FORMAT}"
    ),
    "free": f"Answer the following question briefly; you are given some tools.\n{_FORMAT}",
}
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)


def published_correct(answer: str, final: str, last_tool_output: str | None) -> bool:
    """The authors' test (defect 9): the answer is in a nonempty final message, or in the tool output just before it."""
    if not final:
        return False
    return published_match(answer, final) or (
        last_tool_output is not None and published_match(answer, last_tool_output)
    )


def strict_correct(answer: str, turn: ParsedTurn) -> bool:
    """Whether a final message holds the answer as whole tokens, thinking aside.

    The answer must be in the last `<answer>`, or anywhere in the message if it has none.
    """
    if turn.calls or turn.malformed or any(mark in turn.content for mark in CALL_MARKS):
        return False
    tagged = _ANSWER.findall(turn.content)
    return answer_in_text(answer, tagged[-1] if tagged else turn.content, "strict")


class ToolHopGame(SuiteGame):
    """One question in one setting."""

    def __init__(
        self, question: Question, setting: str, trial: int, prompt: str, match: str, sandbox: ToolSandbox | None
    ) -> None:
        tools = () if setting == "direct" else question.tools
        text = prompt.replace("{question}", question.question)
        case_id = f"{question.id}/{setting}"
        super().__init__(case_id, trial, conversation(case_id, [{"role": "user", "content": text}], tools))
        self._question, self._setting, self._match, self._sandbox = question, setting, match, sandbox
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
        """The first failure that applies under the strict reading; empty for a correct answer."""
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
    """The final message by the authors' parser: the text before the first call, or all of it without calls."""
    turn = parse_turn(text, "published")
    return turn.text[: turn.text.find("<tool_call>")].strip() if turn.calls else turn.text


def read_prompts(path: str | None) -> dict[str, str]:
    """The prompts of the settings, from a JSON file if `path` is given. Raises BadInput."""
    if path is None:
        return PROMPTS
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: expected a JSON file of prompts ({error})") from None
    for name in SETTINGS:
        if not isinstance(found, dict) or "{question}" not in str(found.get(name, "")):
            raise BadInput(f"{path}: key {name!r}: expected a prompt that contains {{question}}")
    return {name: str(found[name]) for name in SETTINGS}


def parser() -> argparse.ArgumentParser:
    made = suite_parser(__doc__, "python -m eval.toolhop", data=DEFAULT_DATA)
    made.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    made.add_argument("--max-turns", type=int, default=MAX_TURNS)
    made.add_argument("--match", choices=MATCHES, default="published", help="how turns are parsed during play")
    made.add_argument("--prompts", default=None, help="JSON file with replacement prompts")
    return made


def run(arguments: argparse.Namespace, policy: Policy | None = None) -> dict[str, Any]:
    """Play what is left and return the summary. Raises DataMissing or BadInput."""
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
        play=game_player(arguments, make_game, max_turns=arguments.max_turns),
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
