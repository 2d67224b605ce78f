"""RoTBench: one tool call under five levels of noise in names, parameters and tools; is it the right call?

Inputs: a policy and a folder with `clean.json`, `slight.json`, `medium.json`, `heavy.json`, `union.json`. These are
RoTBench's first-turn cases (used in Table 2) or its third-turn cases, which follow two earlier calls and their outputs.
Outputs, in --out: one row per case; `summary.json` with tool selection (TS), parameter identification (PI) and content
filling (CF), each as the plain mean of the five levels, and by level and scenario.

The data's own system prompt describes the tools; the model writes `Action:` and `Action Input:` once. In third turns,
tool outputs (role `function` in the data) become user messages here, because no native call precedes them. Three scores
are reported:

| columns | reading of the turn | scoring |
| --- | --- | --- |
| `ts_published` `pi_` `cf_` | FTRL authors' (as in Table 2), with thinking | same names, keys, values in any order |
| `ts_strict` ... | RoTBench's own parser; thinking is removed first | RoTBench's (below) |
| `ts_tolerant` ... | any case or spacing, code fences, text around it, Python dicts, native calls | RoTBench's |

RoTBench's scoring: a match with any of the gold answers counts. TS: the same tool; `finish` also stands for the last
tool, whatever its noisy name. PI: also the same parameter names. CF: also the same values. Gold parameters with the
value "None" match anything, and the texts of `finish` and `ask_to_user` (the last two tools) are not compared.
Differences from its evaluator:
- An empty `Action Input: {}` is an answer. Their evaluator scores it 0 even on TS, but it is the gold answer of 65 of
  the 840 cases.
- What crashes their evaluator (no action at all, an input that is not an object) scores 0.
- The "None" parameters of one gold answer are ignored for that answer only. Their evaluator ignores them for the later
  gold answers too, so the order of the gold answers matters. Likewise, once it has taken the name `finish` for the last
  tool, it keeps doing so.

`ts_chance` is the share of the offered tools that would be right: the score of a policy that picks a tool blindly. The
random policy of this repository scores 0: it makes only native calls, and no native tools are offered.

Example:
    python -m eval.download rotbench
    python -m eval.rotbench --policy hf:PATH --out outputs/mine/rotbench
    python -m eval.rotbench --policy hf:PATH --data data/rotbench/third_turn --out outputs/mine/rotbench_third_turn

Source: paper/README.md, "Evaluation"; data, prompts and scoring rules: repository Junjie-Ye/RoTBench (arXiv
2401.08326).
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, read_text, run_main
from env_construction.replies.reply_text import said_after_thinking
from eval.suites.games import SuiteGame, conversation, game_player, with_messages
from eval.suites.results import GroupedMean, Metric
from eval.suites.suite import DataMissing, run_suite, suite_parser
from reward.tool_calls import assistant_message, parse_turn
from train.policies.interface import Generation, Policy

SUITE = "rotbench"
LEVELS = ("clean", "slight", "medium", "heavy", "union")
READINGS = ("published", "strict", "tolerant")
STAGES = ("ts", "pi", "cf")
COLUMNS = tuple(f"{stage}_{reading}" for reading in READINGS for stage in STAGES)
HEADLINES = ("ts_published", "pi_published", "cf_published", "cf_tolerant")
METRICS: tuple[Metric, ...] = (
    *(GroupedMean(column, column, "level", of=LEVELS) for column in (*COLUMNS, "ts_chance")),
    "completion_tokens",
)
ROLES = {"user": "user", "assistant": "assistant", "function": "user"}
DEFAULT_DATA = "data/rotbench"


@dataclass(frozen=True)
class Action:
    """A tool and its arguments, as named in a turn or a gold answer."""

    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One case: what the model sees, and the correct next calls.

    `tools` are the offered names in order; the last two are ask_to_user and finish.
    """

    id: str
    question: str
    level: str
    scenario: str
    messages: tuple[dict[str, str], ...]
    tools: tuple[str, ...]
    answers: tuple[Action, ...]
    gold_text: str


def read_cases(folder: Path, limit: int | None = None) -> list[Case]:
    """The cases of the five files, at most `limit` per level. Raises DataMissing or BadInput (file, item, key)."""
    missing = [f"{level}.json" for level in LEVELS if not (folder / f"{level}.json").is_file()]
    if missing:
        raise DataMissing(
            f"{folder}: {', '.join(missing)} missing; run `python -m eval.download rotbench`, or copy "
            "Data/First_Turn or Data/Third_Turn of github.com/Junjie-Ye/RoTBench"
        )
    cases = []
    for level in LEVELS:
        path = folder / f"{level}.json"
        try:
            records = json.loads(read_text(path))
        except ValueError as error:
            raise BadInput(f"{path}: expected a JSON list ({error})") from None
        if not isinstance(records, list):
            raise BadInput(f"{path}: expected a JSON list, got {type(records).__name__}")
        cases += [_case(record, level, place, f"{path}: item {place}") for place, record in enumerate(records[:limit])]
    return cases


def _case(record: Any, level: str, place: int, where: str) -> Case:
    try:
        system, *said, gold = record["conversations"]
        prompt = system["value"]
        spoken = tuple({"role": ROLES[turn["from"]], "content": str(turn["value"])} for turn in said)
        if not spoken or spoken[-1]["role"] != "user" or not isinstance(gold["value"], list) or not gold["value"]:
            raise ValueError("a list of gold answers must follow a user's or a tool's turn")
        tools, _ = json.JSONDecoder().raw_decode(prompt, prompt.index("["))
        answers = tuple(_gold_action(text) for text in gold["value"])
        return Case(
            id=f"{level}-{place:03d}",
            question=record["id"],
            level=level,
            scenario=record["scenario"],
            messages=({"role": "system", "content": prompt}, *spoken),
            tools=tuple(tool["name"] for tool in tools),
            answers=answers,
            gold_text=gold["value"][0],
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadInput(
            f"{where}: expected keys id, scenario and conversations "
            f"(system message with a JSON list of tools, turns, gold answers): {type(error).__name__} {error}"
        ) from None


def _gold_action(text: str) -> Action:
    name, _, arguments = text[text.index("Action:") + len("Action:") :].partition("Action Input:")
    return Action(name.strip(), dict(json.loads(arguments)))


def read_strict(text: str) -> Action | None:
    """RoTBench's parser: one character after `Action:`, one newline before `Action Input:`, then JSON to the end."""
    begin, split = text.find("Action:"), text.find("Action Input:")
    if begin < 0 or split < 0:
        return None
    arguments = _json_object(text[split + len("Action Input:") + 1 :])
    name = text[begin + len("Action:") + 1 : split].removesuffix("\n")
    return Action(name, arguments) if name and arguments is not None else None


def read_published(text: str) -> Action | None:
    """The FTRL authors' parser.

    The name is between the first `Action: ` and the next mark; the arguments follow `Action Input: `.
    """
    after_action, after_input = text.split("Action: "), text.split("Action Input: ")
    if len(after_action) < 2 or len(after_input) < 2:
        return None
    arguments = _json_object(after_input[1].strip())
    return None if arguments is None else Action(after_action[1].split("Action Input: ")[0].strip(), arguments)


# Bounded repetition around a mark keeps the search linear on very long texts.
_ACTION = re.compile(
    r"^[ \t>*#`-]{0,20}action\*{0,2}[ \t]{0,9}:[\s*`\"']{0,20}(?P<name>[^\s*`\"'({]+)", re.IGNORECASE | re.MULTILINE
)
_INPUT = re.compile(r"action[ \t_]{0,9}input\*{0,2}[ \t]{0,9}:", re.IGNORECASE)


def read_tolerant(text: str) -> Action | None:
    """The first action of a turn in any common spelling, else what an exact parser accepts, else the first native call.

    Text after the arguments is ignored.
    """
    named = _ACTION.search(text)
    given = _INPUT.search(text, named.end()) if named else None
    if named and given:
        arguments = _first_object(text[given.end() :])
        if arguments is not None:
            return Action(named["name"], arguments)
    if exact := read_published(text) or read_strict(text.strip()):
        return exact
    calls = parse_turn(text, "strict").calls
    return Action(calls[0].name, calls[0].arguments) if calls else None


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _first_object(text: str) -> dict[str, Any] | None:
    """The first {...} of a text as JSON, else as a Python dictionary that ends with its line or the text."""
    begin = text.find("{")
    if begin < 0 or text[:begin].strip(" \t\r\n`*").lower() not in ("", "json", "python"):
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, begin)
        return value if isinstance(value, dict) else None
    except (ValueError, RecursionError):
        pass
    for end in (text.find("\n", begin), text.rfind("}") + 1):
        body = text[begin:] if end < 0 else text[begin:end]
        if len(body) > 10_000:  # a literal this long is not a tool call, and parsing it is slow
            continue
        try:
            value = ast.literal_eval(body.strip(" \t\r\n`*"))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return value
    return None


def stages_of(case: Case, action: Action | None) -> dict[str, bool]:
    """TS, PI and CF by RoTBench's rules; each is true if any gold answer reaches it."""
    reached = 0 if action is None else max((_stage(case, action, gold) for gold in case.answers), default=0)
    return {stage: reached > place for place, stage in enumerate(STAGES)}


def _stage(case: Case, action: Action, gold: Action) -> int:
    ask, finish = case.tools[-2], case.tools[-1]
    if action.tool != gold.tool and not (action.tool == "finish" and gold.tool == finish):
        return 0
    if action.arguments.keys() != gold.arguments.keys():
        return 1
    compared = [name for name, value in gold.arguments.items() if value != "None"]
    free_text = gold.tool in (ask, finish, "ask_to_user", "finish")
    return 3 if free_text or all(action.arguments[name] == gold.arguments[name] for name in compared) else 2


def published_stages_of(case: Case, action: Action | None) -> dict[str, bool]:
    """TS, PI and CF by the FTRL authors' evaluator: exact names, and values as a multiset across parameters."""
    reached = 0
    for gold in case.answers if action is not None else ():
        if action is None or action.tool != gold.tool:
            continue
        reached = max(reached, 1)
        if action.arguments.keys() == gold.arguments.keys():
            reached = max(reached, 2)
            try:
                same = Counter(action.arguments.values()) == Counter(gold.arguments.values())
            except TypeError:  # a list or object as a value: the authors' evaluation of this turn stops here
                break
            if same:
                reached = 3
                break
    return {stage: reached > place for place, stage in enumerate(STAGES)}


class RotbenchGame(SuiteGame):
    """One turn: the model's text is parsed three ways and scored."""

    def __init__(self, case: Case, trial: int) -> None:
        super().__init__(case.id, trial, conversation(case.id, case.messages))
        self._case = case
        self._actions: dict[str, Action | None] = dict.fromkeys(READINGS)
        self._empty = False

    def gold_turn(self) -> str:
        return self._case.gold_text

    def hear(self, generation: Generation) -> None:
        turn = parse_turn(generation.text, "strict")
        spoken = said_after_thinking(turn.text)[0] if turn.thinking else turn.text
        self._actions = {
            "published": read_published(turn.text),
            "strict": read_strict(spoken.strip()),
            "tolerant": read_tolerant(spoken),
        }
        self._empty = not turn.text
        self.state = with_messages(self.state, assistant_message(turn))
        self.done = True

    def row(self, outcome: str) -> dict[str, Any]:
        case = self._case
        row: dict[str, Any] = {"cluster": case.question, "level": case.level, "scenario": case.scenario}
        for reading, action in self._actions.items():
            score = published_stages_of if reading == "published" else stages_of
            row |= {f"{stage}_{reading}": passed for stage, passed in score(case, action).items()}
        right = {gold.tool for gold in case.answers}
        row["ts_chance"] = sum(tool in right for tool in case.tools) / len(case.tools)
        row["calls"] = int(self._actions["tolerant"] is not None)
        row["failure"] = outcome if outcome != "ended" else self._failure(row)
        return row

    def _failure(self, row: Mapping[str, Any]) -> str:
        if self._empty:
            return "empty"
        if self._actions["tolerant"] is None:
            return "no_action"
        names = {"ts": "wrong_tool", "pi": "wrong_parameters", "cf": "wrong_content"}
        return next((names[stage] for stage in STAGES if not row[f"{stage}_tolerant"]), "")


def parser() -> argparse.ArgumentParser:
    """The command-line parser of this suite."""
    return suite_parser(__doc__, "python -m eval.rotbench", data=DEFAULT_DATA)


def run(arguments: argparse.Namespace, policy: Policy | None = None) -> dict[str, Any]:
    """Play and score; returns the summary. A `policy` that is already loaded is used as it is. Raises BadInput."""
    folder = Path(arguments.data)
    cases = {case.id: case for case in read_cases(folder, arguments.limit)}
    return run_suite(
        arguments,
        SUITE,
        case_ids=list(cases),
        play=game_player(arguments, lambda case_id, trial: RotbenchGame(cases[case_id], trial), max_turns=1),
        metrics=METRICS,
        groups={"by_level": "level", "by_scenario": "scenario"},
        data_files=[folder / f"{level}.json" for level in LEVELS],
        shown=[*COLUMNS, "ts_chance"],
        policy=policy,
    )


def main() -> int:
    run(parser().parse_args())
    return 0


if __name__ == "__main__":
    run_main(main)
