"""RoTBench scores on hand-written turns: three parsers, two scoring rules, hostile turns."""

import json
from pathlib import Path

import pytest

from env_construction.environment.jsonl import BadInput, read_jsonl
from eval import rotbench
from eval.rotbench import (
    Action,
    Case,
    RotbenchGame,
    published_stages_of,
    read_cases,
    read_published,
    read_strict,
    read_tolerant,
    stages_of,
)
from eval.suites.suite import DataMissing
from train.policies.interface import Generation

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "rotbench"
CALL = 'Thought: a flight.\nAction: book\nAction Input: {"to": "Lima", "day": "May 4", "seat": "None"}'


def case(*answers: tuple[str, dict]) -> Case:
    """A case with five tools; the last two are ask_to_user and finish under noisy names."""
    return Case(
        id="clean-000",
        question="Turn 1: fly me to Lima",
        level="clean",
        scenario="PL",
        messages=({"role": "system", "content": "tools"}, {"role": "user", "content": "fly"}),
        tools=("book", "cancel", "today", "aks", "hsinif"),
        answers=tuple(Action(*answer) for answer in answers),
        gold_text="",
    )


FLIGHT = case(("book", {"to": "Lima", "day": "May 4", "seat": "None"}))


def row_of(text: str, of: Case = FLIGHT) -> dict:
    game = RotbenchGame(of, 0)
    game.hear(Generation(text=text, tokens=1, prompt_tokens=1, truncated=False))
    assert game.done
    return game.row("ended")


def passed(stages: dict[str, bool]) -> str:
    return "+".join(stage for stage, reached in stages.items() if reached)


def reading(row: dict, name: str) -> str:
    return passed({stage: row[f"{stage}_{name}"] for stage in ("ts", "pi", "cf")})


@pytest.mark.parametrize(
    ("tool", "arguments", "benchmark", "authors"),
    [
        ("book", {"to": "Lima", "day": "May 4", "seat": "None"}, "ts+pi+cf", "ts+pi+cf"),
        ("cancel", {"to": "Lima", "day": "May 4", "seat": "None"}, "", ""),
        ("book", {"to": "Lima", "day": "May 4"}, "ts", "ts"),
        ("book", {"to": "Lima", "day": "May 4", "seat": "None", "class": "1"}, "ts", "ts"),
        ("book", {"to": "Lima", "day": "May 5", "seat": "None"}, "ts+pi", "ts+pi"),
        # a gold "None" matches anything for RoTBench, only "None" for the authors
        ("book", {"to": "Lima", "day": "May 4", "seat": "12A"}, "ts+pi+cf", "ts+pi"),
        # swapped values: the authors compare values as a multiset
        ("book", {"to": "May 4", "day": "Lima", "seat": "None"}, "ts+pi", "ts+pi+cf"),
        # a list as a value stops the authors' comparison, after TS and PI are counted
        ("book", {"to": ["Lima"], "day": "May 4", "seat": "None"}, "ts+pi", "ts+pi"),
        ("finish", {"to": "Lima", "day": "May 4", "seat": "None"}, "", ""),
        ("book", {}, "ts", "ts"),
    ],
)
def test_stages_of_a_call(tool, arguments, benchmark, authors) -> None:
    action = Action(tool, arguments)
    assert passed(stages_of(FLIGHT, action)) == benchmark
    assert passed(published_stages_of(FLIGHT, action)) == authors


def test_finish_stands_for_the_last_tool_and_its_text_is_not_compared() -> None:
    end = case(("hsinif", {"answer": "Done."}))
    assert passed(stages_of(end, Action("finish", {"answer": "anything"}))) == "ts+pi+cf"
    assert passed(stages_of(end, Action("hsinif", {"answer": "anything"}))) == "ts+pi+cf"
    assert passed(published_stages_of(end, Action("finish", {"answer": "Done."}))) == ""
    assert passed(published_stages_of(end, Action("hsinif", {"answer": "anything"}))) == "ts+pi"
    ask = case(("aks", {"question": "When?"}))
    assert passed(stages_of(ask, Action("aks", {"question": "Which day?"}))) == "ts+pi+cf"
    assert passed(stages_of(ask, Action("ask_to_user", {"question": "When?"}))) == ""


def test_the_best_stage_over_all_gold_answers_counts() -> None:
    two = case(("cancel", {"id": "7"}), ("cancel", {"id": "8"}), ("book", {"to": "Lima"}))
    assert passed(stages_of(two, Action("cancel", {"id": "8"}))) == "ts+pi+cf"
    assert passed(stages_of(two, Action("book", {"from": "Lima"}))) == "ts"
    assert passed(published_stages_of(two, Action("cancel", {"id": "8"}))) == "ts+pi+cf"


def test_none_parameters_of_one_gold_answer_do_not_leak_into_the_next() -> None:
    """RoTBench's evaluator deletes `seat` for the first gold answer and misses it in the second: CF fails there."""
    two = case(("book", {"to": "Cusco", "seat": "None"}), ("book", {"to": "Lima", "seat": "12A"}))
    assert passed(stages_of(two, Action("book", {"to": "Lima", "seat": "12A"}))) == "ts+pi+cf"


def test_empty_arguments_are_an_answer() -> None:
    """RoTBench's evaluator skips a turn with `{}`; it is the gold answer of 65 cases."""
    row = row_of("Thought: today\nAction: today\nAction Input: {}", case(("today", {})))
    assert [reading(row, name) for name in rotbench.READINGS] == ["ts+pi+cf"] * 3


@pytest.mark.parametrize(
    ("text", "published", "strict", "tolerant"),
    [
        (CALL, True, True, True),
        (CALL + "\n", True, True, True),
        (CALL + "<|im_end|>", True, True, True),
        (CALL.replace("Action: book", "Action:book"), False, False, True),
        (CALL.replace("Input: {", "Input:{"), False, False, True),
        (CALL.replace("book\n", "book \n"), True, False, True),
        (CALL + "\nThought: done", False, False, True),
        (CALL.replace("{", "```json\n{").replace("}", "}\n```"), False, False, True),
        (CALL.replace('"', "'"), False, False, True),
        (CALL.replace("Action:", "**Action:**").replace("Action Input:", "**Action Input:**"), False, False, True),
        (CALL.replace("Action:", "action:").replace("Action Input", "ACTION INPUT"), False, False, True),
        (CALL.replace("\nAction Input", " Action Input"), True, False, True),
        (CALL + "\nAction: cancel\nAction Input: {}", False, False, True),
        ("<think>\nShould I book?\n</think>\n\n" + CALL, True, True, True),
        ("<think>\nAction: cancel\nAction Input: {}\n</think>\n\n" + CALL, False, True, True),
        (
            '<tool_call>\n{"name": "book", "arguments": {"to": "Lima", "day": "May 4", "seat": "None"}}\n</tool_call>',
            False,
            False,
            True,
        ),
        ("<think>\n" + CALL, True, False, False),  # unclosed thinking
        ("<think>no</think>I will.<think>\n" + CALL, True, False, False),
        (CALL.replace('"None"}', '"None"'), False, False, False),
        (CALL.replace("Action Input", "Arguments"), False, False, False),
        ('Action: book\nAction Input: ["Lima"]', False, False, False),
        ("Action: \nAction Input: {}", False, False, False),
        ("I booked it.", False, False, False),
        ("", False, False, False),
    ],
)
def test_three_readings_side_by_side(text, published, strict, tolerant) -> None:
    row = row_of(text)
    assert [reading(row, name) == "ts+pi+cf" for name in ("published", "strict", "tolerant")] == [
        published,
        strict,
        tolerant,
    ]


def test_exact_parsers_cut_at_the_published_positions() -> None:
    assert read_strict("Action:book\nAction Input: {}") == Action("ook", {})
    assert read_strict('Action: book\n\nAction Input: {"a": 1}') == Action("book\n", {"a": 1})
    assert read_published('Action: book\n\nAction Input: {"a": 1}') == Action("book", {"a": 1})
    assert read_published("Action: book\nAction Input: {}\nAction Input: {") == Action("book", {})
    assert read_strict("Action Input: {}") is None
    assert read_tolerant("Action: `book`\nAction Input: {'a': True} as you wish\nbye") == Action("book", {"a": True})
    assert read_tolerant("Action: `book`\nAction Input: see {'a': True}") is None


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("", "empty"),
        ("x" * 1_000_000, "no_action"),
        ("\n" * 1_000_000 + "x", "no_action"),
        ("Action: " * 120_000, "no_action"),
        ("Action: a\nAction Input: " + "{" * 1_000_000, "no_action"),
        ('Action: a\nAction Input: {"a":' + "[" * 500_000, "no_action"),
        ("Action: a\nAction Input: {'a': " + "(" * 500_000, "no_action"),
        ('Action: book\nAction Input: {"to": "Li', "no_action"),
        ("Action: fly\nAction Input: {}", "wrong_tool"),
        ("```\n" + CALL + "\n```", ""),
        ((CALL + "\n") * 20, ""),
        ("I booked it.\n" + CALL, ""),
        ('Action: book\nAction Input: {"to": NaN}', "wrong_parameters"),
        ('Action: book\nAction Input: {"to": "\ud800", "day": null, "seat": {}}', "wrong_content"),
    ],
)
def test_hostile_turns_end_in_a_scored_row(text, failure) -> None:
    row = row_of(text)
    assert row["failure"] == failure
    assert {stage: type(row[stage]) for stage in rotbench.COLUMNS} == dict.fromkeys(rotbench.COLUMNS, bool)


def fixture_folder(folder: Path) -> Path:
    """Two questions per level in the published layout, tools in the system prompt."""
    tools = [{"name": name, "parameters": {}} for name in ("book", "today", "ask_to_user", "finish")]
    golds = ['Thought:\nAction: book\nAction Input: {"to": "Lima"}', "Thought:\nAction: today\nAction Input: {}"]
    records = [
        {
            "id": f"Turn 1: question {place}",
            "scenario": "PL",
            "conversations": [
                {"from": "system", "value": f"Use these tools:\n{json.dumps(tools)}\n\nLet's Begin!"},
                {"from": "user", "value": f"question {place}\nBegin!\n"},
                {"from": "assistant", "value": [gold]},
            ],
        }
        for place, gold in enumerate(golds)
    ]
    for level in rotbench.LEVELS:
        (folder / f"{level}.json").write_text(json.dumps(records * (2 if level == "slight" else 1)))
    return folder


def measure(*arguments: object) -> dict:
    return rotbench.run(rotbench.parser().parse_args(list(map(str, arguments))))


def test_levels_have_equal_weight(tmp_path) -> None:
    data = fixture_folder(tmp_path)
    turns = tmp_path / "turns.jsonl"
    right = [f"slight-{place:03d}" for place in range(4)] + ["union-000"]
    texts = {"0": 'Action: book\nAction Input: {"to": "Lima"}', "1": "Action: today\nAction Input: {}"}
    turns.write_text(
        "".join(
            json.dumps({"id": case.id, "turns": [texts[case.question[-1]] if case.id in right else "no"]}) + "\n"
            for case in read_cases(data)
        )
    )
    summary = measure("--policy", f"replay:{turns}", "--data", data, "--out", tmp_path / "out")
    assert summary["metrics"]["cf_strict"]["value"] == pytest.approx((0 + 1 + 0 + 0 + 0.5) / 5)
    assert summary["by_level"]["slight"]["cf_tolerant"]["value"] == 1.0
    assert summary["metrics"]["cf_strict"]["n"] == 2  # counts questions, since their variants are not independent
    assert summary["metrics"]["ts_chance"]["value"] == 0.25
    assert summary["rows"] == 12
    rows = [row for _, row in read_jsonl(tmp_path / "out" / "results.jsonl")]
    again = measure("--policy", f"replay:{tmp_path / 'out' / 'results.jsonl'}", "--data", data, "--out", tmp_path / "2")
    assert again["metrics"]["cf_strict"] == summary["metrics"]["cf_strict"]
    assert {row["failure"] for row in rows} == {"", "no_action"}


def test_missing_and_broken_data_are_named(tmp_path) -> None:
    data = fixture_folder(tmp_path)
    (data / "heavy.json").write_text('[{"id": "q", "conversations": []}]')
    with pytest.raises(BadInput, match=r"heavy\.json: item 0: expected keys id, scenario and conversations"):
        read_cases(data)
    (data / "heavy.json").unlink()
    with pytest.raises(DataMissing, match=r"heavy\.json missing; run `python -m eval\.download rotbench`"):
        read_cases(data)


def test_third_turns_follow_the_two_earlier_calls(tmp_path) -> None:
    data = fixture_folder(tmp_path)
    called = [
        {"from": "assistant", "value": "Thought:\nAction: today\nAction Input: {}"},
        {"from": "function", "value": "May 4"},
        {"from": "assistant", "value": 'Thought:\nAction: ask_to_user\nAction Input: {"question": "To?"}'},
        {"from": "user", "value": "Lima"},
    ]
    for level in rotbench.LEVELS:
        records = json.loads((data / f"{level}.json").read_text())
        for record in records:
            record["conversations"][-1:-1] = called
        (data / f"{level}.json").write_text(json.dumps(records))
    [first, *_] = read_cases(data)
    assert [message["role"] for message in first.messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert first.messages[3]["content"] == "May 4"
    summary = measure("--policy", "oracle", "--data", data, "--out", tmp_path / "out")
    assert {summary["metrics"][column]["value"] for column in rotbench.COLUMNS} == {1.0}
    broken = json.loads((data / "union.json").read_text())
    broken[1]["conversations"][2]["from"] = "robot"
    (data / "union.json").write_text(json.dumps(broken))
    with pytest.raises(BadInput, match=r"union\.json: item 1: expected keys id, scenario and conversations.*robot"):
        read_cases(data)
    broken[1]["conversations"].pop()
    broken[1]["conversations"][2]["from"] = "assistant"
    (data / "union.json").write_text(json.dumps(broken))
    with pytest.raises(BadInput, match=r"union\.json: item 1: .*gold answers"):
        read_cases(data)


@pytest.mark.skipif(not DATA.exists(), reason="RoTBench's cases are not available")
def test_oracle_gets_full_marks_on_the_published_cases_and_noise_is_as_published(tmp_path) -> None:
    cases = read_cases(DATA)
    assert [sum(case.level == level for case in cases) for level in rotbench.LEVELS] == [105, 210, 210, 210, 105]
    assert sum(not gold.arguments for case in cases for gold in case.answers) == 65
    for case_ in cases:
        row = row_of(case_.gold_text, case_)
        assert [reading(row, name) for name in rotbench.READINGS] == ["ts+pi+cf"] * 3, case_.id
    summary = measure("--policy", "oracle", "--data", DATA, "--out", tmp_path / "out", "--limit", 5)
    assert {summary["metrics"][column]["value"] for column in rotbench.COLUMNS} == {1.0}
    assert summary["metrics"]["ts_chance"]["value"] < 0.5
    assert summary["rows"] == 25
