"""CCTU: gold turns get full marks, each kind of constraint is enforced, validators run in the sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolCall, shared_sandbox
from eval import cctu
from eval.constraints.cases import Rules, checks_sha256, read_cases
from eval.constraints.checks import TurnChecks, argument_problems, seen_as_published
from eval.suites.games import GameFault
from eval.suites.results import read_rows
from eval.suites.suite import DataMissing
from reward.tool_calls import parse_turn, render_call
from train.policies.interface import Generation

BOLD = """
def validate_format(response):
    if response.startswith("**"):
        return True, "bold"
    return False, "put the answer in **bold**"
"""
PERIOD = "import re\n\n\ndef validate_punctuation(response):\n    return re.search(r'[.]$', response) is not None\n"
ENDING = "def validate_identifiers(response):\n    return (response.endswith('[END]'), 'end with [END]')\n"
Constraint = tuple[str, str, dict[str, Any] | str | None]


def made(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


FIJI, PERU, GHANA = (made("capital_of", country=country) for country in ("Fiji", "Peru", "Ghana"))
GOLD: list[list[Any]] = [
    [[FIJI], "**Suva**."],
    [[PERU, GHANA], "Lima and Accra"],
    [[FIJI], [made("population_of", city="Suva")], "77366 people"],
    [
        [PERU, GHANA],
        [made("population_of", city="Lima"), made("population_of", city="Accra")],
        [made("larger_of", a=7737002, b=1963264)],
        "7737002 [END]",
    ],
]
CONSTRAINTS: list[list[Constraint]] = [
    [
        ("Resource", "Interaction Rounds", {"min_round": 2, "max_round": 3}),
        ("Response", "Format", BOLD),
        ("Response", "Content_2", PERIOD),
    ],
    [
        (
            "Behavior",
            "Parallel Calls Count",
            {"min_parallelCallTypes": 2, "max_parallelCallTypes": "inf", "unit": "num"},
        ),
        ("Behavior", "Parallel Dependencies", {"parallel_groups": [["capital_of", "capital_of"]]}),
        ("Resource", "Tool Call Count", {"min_callTimes": 2, "max_callTimes": 2}),
    ],
    [
        ("Tool", "Tool Order", {"order_constraints": [["capital_of", "population_of"]]}),
        ("Tool", "Max Calls Per Tool", {"max_calls_per_tool": {"capital_of": 1}}),
        ("Response", "Length", {"min_responseLength": 1, "max_responseLength": 2, "unit": "words"}),
        ("Interact", "Round", {"min_round": 0, "max_round": 20}),
    ],
    [('"Response"', "Identifiers", ENDING)],
]


def write_cctu(
    folder: Path, environments: list[Environment], constraints: list[list[Constraint]] = CONSTRAINTS
) -> Path:
    """The environments as CCTU cases 0, 1, ... in the authors' layout, with gold turns."""
    lines = []
    for place, (environment, rules) in enumerate(zip(environments, constraints, strict=False)):
        record = environment.to_record()
        kept = {key: record[key] for key in ("messages", "tools", "codes", "unsolved_set", "data_source")}
        named = [[dimension, name, "as described"] for dimension, name, _ in rules]
        lines.append(json.dumps({"id": place, **kept, "constraints_list": named, "gold_turns": GOLD[place]}) + "\n")
        for number, (_, _, check) in enumerate(rules):
            path = folder / "check_code" / str(place) / f"check_constraint_{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(check, dict):
                path.with_suffix(".json").write_text(json.dumps(check))
            elif check is not None:
                path.with_suffix(".py").write_text(check)
    (folder / "input_data.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def folder(environments, tmp_path) -> Path:
    return write_cctu(tmp_path / "cctu", environments)


def text(turn: Any) -> str:
    return turn if isinstance(turn, str) else "\n".join(render_call(ToolCall(**call)) for call in turn)


@pytest.fixture
def game(folder, sandbox) -> Callable[..., dict[str, Any]]:
    """`game(place, turns)`: the row of a case in which the model says `turns`, then repeats the last one."""

    def played(place: int, *turns: Any) -> dict[str, Any]:
        case = read_cases(folder)[place]
        one, said = cctu.CctuGame(case, 0, "published", sandbox), 0
        while not one.done:
            one.hear(Generation(text(turns[min(said, len(turns) - 1)]), 1, 1, False))
            said += 1
        return one.row("ended") | {"messages": one.state.messages}

    return played


def test_oracle_gets_full_marks_in_every_scenario(folder, tmp_path) -> None:
    flags = ["--policy", "oracle", "--data", str(folder), "--out", str(tmp_path / "out"), "--trials", "2"]
    summary = cctu.run(cctu.parser().parse_args(flags))
    for metric in ("sr", "psr", "psr_published", "all_solved", "solve_rate"):
        assert summary["metrics"][metric]["value"] == 1.0
    assert all(summary["metrics"][name]["value"] == 0 for name in cctu.BROKE)
    assert len(summary["by_scenario"]) == 4
    assert (summary["rows"], summary["faults"]) == (8, 0)
    assert summary["protocol"]["settings"]["checks_sha256"] == checks_sha256(folder)


def test_a_later_call_may_raise_the_limit(folder, tmp_path) -> None:
    flags = ["--policy", "oracle", "--data", str(folder), "--out", str(tmp_path / "out")]
    first, again = (cctu.run(cctu.parser().parse_args([*flags, "--limit", limit])) for limit in ("1", "3"))
    assert (first["rows"], again["rows"]) == (1, 3)
    assert first["protocol"]["settings"] == again["protocol"]["settings"]


@pytest.mark.parametrize(
    "place, turns, kinds",
    [
        (0, ["**Suva**."], {"rounds"}),
        (0, [[FIJI], "Suva"], {"format", "punctuation"}),
        (0, [[FIJI], "**Suva**"], {"punctuation"}),
        (1, [[PERU], [GHANA], "Lima and Accra"], {"together", "parallel"}),
        (1, [[PERU, GHANA], [FIJI, FIJI], "Lima"], {"calls"}),
        (1, [[PERU, made("population_of", city="Lima")], "?"], {"together"}),
        (2, [[made("population_of", city="Suva")], [FIJI], "1 2"], {"order"}),
        (2, [[FIJI, made("population_of", city="Suva")], "1 2"], {"order"}),  # one turn is not one after the other
        (2, [[FIJI], [PERU], "1 2"], {"calls_of_tool"}),
        (2, [[FIJI], "far too many words"], {"length"}),
        (3, [[made("capital_of", land="Peru")], "[END]"], {"arguments"}),
        (3, [[made("capital_of", country=1)], "[END]"], {"arguments"}),
        (3, [[made("larger_of", a=1, b=2, c=3)], "[END]"], {"arguments"}),
        (3, [[made("capitol_of", country="Peru")], "[END]"], {"tool"}),
        (3, [text([PERU]) + "<tool_call>{broken</tool_call>", "[END]"], {"unreadable"}),
        (3, ["<tool_call>{broken</tool_call> [END]", "[END]"], {"unreadable"}),
        (3, [text([PERU]), "no ending"], {"identifiers"}),
    ],
)
def test_each_constraint_is_enforced(game, place, turns, kinds) -> None:
    row = game(place, *turns)
    assert row["broken"].keys() >= kinds, row["broken"]
    assert row["psr"] == 0 and row["failure"]
    broken = {name for name, members in cctu.DIMENSIONS.items() if any(kind in members for kind in row["broken"])}
    assert {name for name in cctu.DIMENSIONS if row[f"broke_{name}"]} == broken


@pytest.mark.parametrize("place", range(4))
def test_gold_turns_break_nothing(game, place) -> None:
    row = game(place, *GOLD[place])
    assert (row["broken"], row["sr"], row["psr"], row["failure"]) == ({}, 1, 1, "")


def test_a_broken_answer_is_sent_back_and_may_be_repaired(game) -> None:
    row = game(0, [FIJI], "Suva.", "**Suva**.")
    assert (row["sr"], row["psr"], row["failure"]) == (1, 0, "broke_constraint")
    sent_back = row["messages"][-2]
    assert sent_back["role"] == "user" and "put the answer in **bold**" in sent_back["content"]
    assert row["turn_scores"][1]["broken"] == ["format: put the answer in **bold**"]


def test_an_episode_ends_at_the_turns_that_its_case_allows(game) -> None:
    row = game(0, [FIJI], [FIJI])
    assert (len(row["turn_scores"]), row["failure"], row["all_solved"], row["sr"]) == (3, "max_rounds", 1, 0)
    assert len(game(3, [PERU], "never")["turn_scores"]) == 20


def test_a_call_that_breaks_a_constraint_does_not_run(game) -> None:
    row = game(2, [made("population_of", city="Suva")], "1 2")
    assert row["turn_scores"][0]["status"] == ["refused"]
    [output] = [message for message in row["messages"] if message["role"] == "tool"]
    assert "population_of may be called only after capital_of" in output["content"]
    assert (row["solve_rate"], row["failure"]) == (0, "unsolved")


def test_the_authors_checker_loses_unknown_tools_and_unreadable_calls(game) -> None:
    unknown = game(0, [FIJI, made("capitol_of", country="Fiji")], "**Suva**.")
    assert (unknown["psr"], unknown["psr_published"], unknown["sr"]) == (0, 1, 1)
    wrong = game(0, [made("capital_of", land="Fiji")], [FIJI], "**Suva**.")
    assert (wrong["psr"], wrong["psr_published"]) == (0, 0)


def test_a_chain_may_hold_only_for_episodes_that_start_with_it(environments, sandbox) -> None:
    tools = environments[0].tools
    rules = Rules(conditional_order=("capital_of", "population_of", "larger_of"))

    def broken(*turns: list[dict[str, Any]]) -> list[str]:
        checks = TurnChecks(rules, tools, sandbox)
        return [violation.kind for turn in turns for violation in checks.check(parse_turn(text(turn), "strict"))]

    larger, people = made("larger_of", a=1, b=2), made("population_of", city="Suva")
    assert broken([FIJI], [larger]) == ["order"]
    assert broken([FIJI], [people], [larger]) == []
    assert broken([larger], [FIJI], [people]) == []


def test_argument_problems_name_the_place() -> None:
    schema = {
        "type": "object",
        "required": ["who"],
        "properties": {
            "who": {"type": ["string", "null"], "enum": ["a", None]},
            "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        },
    }
    assert argument_problems({"who": None, "list": [{"n": 1}]}, schema, "") == []
    assert argument_problems({}, schema, "") == ["who is missing"]
    assert argument_problems({"who": "b", "more": 1}, schema, "") == [
        "more is unknown",
        "who: 'b' is not one of ['a', None]",
    ]
    found = argument_problems({"who": "a", "list": [{"n": True}, {"m": 1}]}, schema, "")
    assert found == ["list[0].n: expected integer, got bool", "list[1].m is unknown"]


@pytest.mark.parametrize(
    "check",
    ["def validate_format(response):\n    while True:\n        pass\n", "def validate_format(a, b):\n    pass\n"],
)
def test_a_validator_that_breaks_is_a_fault_and_not_the_models(environments, tmp_path, check) -> None:
    folder = write_cctu(tmp_path, environments[:1], [[("Response", "Format", check)]])
    one = cctu.CctuGame(read_cases(folder)[0], 0, "published", shared_sandbox())
    with pytest.raises(GameFault, match="the validator validate_format failed"):
        one.hear(Generation("**Suva**.", 1, 1, False))


def test_a_validator_cannot_read_files(environments, tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("answer")
    check = f"def validate_format(response):\n    return open({str(secret)!r}).read() == 'answer'\n"
    folder = write_cctu(tmp_path / "cctu", environments[:1], [[("Response", "Format", check)]])
    one = cctu.CctuGame(read_cases(folder)[0], 0, "published", shared_sandbox())
    with pytest.raises(GameFault):
        one.hear(Generation("**Suva**.", 1, 1, False))


def test_a_constraint_without_its_check_file_is_named(environments, tmp_path, capsys) -> None:
    rules: list[Constraint] = [("Toolset", "Available Tools", None), ("Response", "Format", None)]
    folder = write_cctu(tmp_path / "cctu", environments[:1], [rules])
    flags = ["--policy", "oracle", "--data", str(folder), "--out", str(tmp_path / "out")]
    summary = cctu.run(cctu.parser().parse_args(flags))
    assert summary["unchecked"] == {"response/format": 1, "toolset/available tools": 1}
    assert "are not checked: response/format (1), toolset/available tools (1)" in capsys.readouterr().out


def test_without_gold_turns_the_oracle_says_so_and_other_policies_play(folder, tmp_path) -> None:
    path = folder / "input_data.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in r.items() if k != "gold_turns"}) + "\n" for r in records))
    flags = ["--data", str(folder), "--out", str(tmp_path / "out")]
    with pytest.raises(BadInput, match="no gold turns"):
        cctu.run(cctu.parser().parse_args([*flags, "--policy", "oracle"]))
    summary = cctu.run(
        cctu.parser().parse_args(["--policy", "random", "--data", str(folder), "--out", str(tmp_path / "r")])
    )
    assert summary["rows"] == 4 and summary["metrics"]["psr"]["value"] < 1
    assert {row["outcome"] for row in read_rows(tmp_path / "r")} == {"ended"}


@pytest.mark.parametrize(
    "number, content, said",
    [
        (0, "{", "expected JSON"),
        (0, "[]", "expected an object with one of max_round"),
        (0, '{"min_round": 1, "max_round": "many"}', "expected a number or 'inf', got 'many'"),
        (0, '{"max_responseLength": 4, "unit": "lines"}', "expected words or characters, got 'lines'"),
        (0, '{"max_calls_per_tool": {"fly": 1}}', r"expected names of the case's tools \(capital_of"),
        (0, '{"order_constraints": "x"}', "expected a list of lists of tools"),
    ],
)
def test_bad_check_file_is_one_clear_line(folder, number, content, said) -> None:
    (folder / "check_code" / "0" / f"check_constraint_{number}.json").write_text(content)
    with pytest.raises(BadInput, match=rf"check_constraint_{number}\.json: .*{said}"):
        read_cases(folder)


def test_missing_data_name_their_source(tmp_path, folder) -> None:
    with pytest.raises(DataMissing, match="Junjie-Ye/CCTU"):
        read_cases(tmp_path / "nothing")
    line = (folder / "input_data.jsonl").read_text().splitlines()[0]
    (folder / "input_data.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(BadInput, match="id '0' occurs twice"):
        read_cases(folder)
    record = json.loads(line) | {"constraints_list": ["round"]}
    (folder / "input_data.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(BadInput, match=r"input_data\.jsonl:1: key 'constraints_list'"):
        read_cases(folder)
    assert seen_as_published([]) == []
