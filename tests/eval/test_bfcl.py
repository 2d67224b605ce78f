"""BFCL: gold calls pass, each kind of wrong call fails as in the package, model text is never evaluated."""

import ast
import contextlib
import functools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from env_construction.environment.jsonl import BadInput, read_jsonl
from env_construction.sandbox.tool_sandbox import ToolCall
from eval import bfcl
from eval.bfcl_support.checker import UNDEFINED_CALL, call_text
from eval.bfcl_support.process import BfclProcess, NoAnswer, ToolState
from eval.suites.results import summarize
from reward.tool_calls import render_call
from train.policies.interface import Generation

BASE = "multi_turn_base_0"


@pytest.fixture(scope="module")
def process() -> Iterator[BfclProcess]:
    with BfclProcess() as opened:
        yield opened


@functools.cache
def case_of(process: BfclProcess, case_id: str) -> tuple[str, dict[str, Any]]:
    category = case_id.rsplit("_", 1)[0]
    return category, next(case for case in process.ask("cases", category=category, limit=1) if case["id"] == case_id)


def single(process: BfclProcess, case_id: str, text: str) -> dict[str, Any]:
    category, case = case_of(process, case_id)
    game = bfcl.SingleTurnGame(case, category, 0, process)
    game.hear(generation(text))
    assert game.done
    return game.row("ended")


def multi(process: BfclProcess, case_id: str, turns: list[str]) -> dict[str, Any]:
    """The row of a multi-turn case in which the model says `turns`, then only text."""
    category, case = case_of(process, case_id)
    game = bfcl.MultiTurnGame(case, category, 0, process)
    said = iter(turns)
    while not game.done:
        game.hear(generation(next(said, "I am done.")))
    row = game.row("ended")
    row["messages"] = game.state.messages
    row["tools"] = [tool.name for tool in game.state.tools]
    return row


def generation(text: str) -> Generation:
    return Generation(text=text, tokens=1, prompt_tokens=1, truncated=False)


def calls(*made: tuple[str, dict[str, Any]]) -> str:
    return "\n".join(render_call(ToolCall(name, arguments)) for name, arguments in made)


def measure(*arguments: object) -> dict[str, Any]:
    return bfcl.run(bfcl.parser().parse_args(list(map(str, arguments))))


def test_oracle_gets_full_marks_in_every_category(tmp_path) -> None:
    summary = measure("--policy", "oracle", "--out", tmp_path / "out", "--limit", 5)
    assert list(summary["by_category"]) == sorted(bfcl.CATEGORIES)
    assert {name: table["correct"]["value"] for name, table in summary["by_category"].items()} == dict.fromkeys(
        bfcl.CATEGORIES, 1.0
    )
    assert {summary["metrics"][name]["value"] for name in (*bfcl.HEADLINES, *bfcl.MULTI_TURN)} == {1.0}
    assert summary["partial"] == {}
    assert (summary["faults"], summary["rows"]) == (0, 5 * len(bfcl.CATEGORIES))
    assert set(summary["data_sha256"]) == {f"BFCL_v4_{category}.json" for category in bfcl.CATEGORIES}


def scored_rows(right: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """Rows of BFCL by category: `(right, wrong)`."""
    return [
        {"id": f"{category}_{i}", "trial": 0, "outcome": "ended", "category": category, "correct": i < yes}
        for category, (yes, no) in right.items()
        for i in range(yes + no)
    ]


def package_mean(name: str) -> Any:
    """A function of the package's eval_runner_helper; importing that module would load clients of many models."""
    source = (bfcl.package_folder() / "eval_checker" / "eval_runner_helper.py").read_text()
    found = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    space: dict[str, Any] = {}
    exec(compile(ast.Module(found, []), name, "exec"), space)
    return space[name]


def test_aggregates_are_those_of_the_package(process) -> None:
    """The package's own functions, on the sizes of its data."""
    weighted_mean, plain_mean = map(package_mean, ("calculate_weighted_accuracy", "calculate_unweighted_accuracy"))
    sizes = {category: len(process.ask("cases", category=category)) for category in bfcl.CATEGORIES}
    assert {category: sizes[category] for category in bfcl.LIVE} == bfcl.LIVE_SIZES
    right = {category: (size * (place + 3) // 25, 0) for place, (category, size) in enumerate(sizes.items())}
    rows = scored_rows({category: (yes, sizes[category] - yes) for category, (yes, _) in right.items()})
    found = summarize("bfcl", "p", rows, bfcl.METRICS)["metrics"]

    def mean(*names: str, weighted: bool = False) -> float:
        scores = [
            {"accuracy": right[name][0] / sizes[name], "total_count": sizes[name], "display_accuracy": 0}
            for name in names
        ]
        return float((weighted_mean if weighted else plain_mean)(scores)["accuracy"])

    assert found["irrelevance"]["value"] == pytest.approx(mean("irrelevance", "live_irrelevance"))
    assert found["relevance"]["value"] == pytest.approx(mean("live_relevance"))
    assert found["live_ast"]["value"] == pytest.approx(mean(*bfcl.LIVE, weighted=True))
    assert found["multi_turn"]["value"] == pytest.approx(mean(*bfcl.MULTI_TURN))
    simple = {"accuracy": mean(*bfcl.SIMPLE), "total_count": 1, "display_accuracy": 0}
    others = [
        {"accuracy": mean(name), "total_count": 1, "display_accuracy": 0}
        for name in ("multiple", "parallel", "parallel_multiple")
    ]
    assert found["non_live_ast"]["value"] == pytest.approx(plain_mean([simple, *others])["accuracy"])


def test_irrelevance_weighs_its_categories_equally_and_multi_turn_categories_are_separate() -> None:
    right = {"irrelevance": (240, 0), "live_irrelevance": (0, 884), "multi_turn_base": (30, 10)}
    found = summarize("bfcl", "p", scored_rows(right), bfcl.METRICS)
    assert found["metrics"]["irrelevance"]["value"] == 0.5  # 240 of 1,124 are 21.4%
    assert found["metrics"]["multi_turn_base"]["value"] == 0.75 and found["metrics"]["multi_turn"]["value"] is None
    assert found["partial"]["multi_turn"]["value"] == 0.75


def test_only_the_listed_gold_calls_are_refused_by_the_packages_checker(process) -> None:
    """All 3,641 single-turn cases; the next test covers the multi-turn cases."""
    refused, seen = set(), 0
    for category in bfcl.GROUPS["single_turn"]:
        for case in process.ask("cases", category=category):
            found = process.ask("check_single", id=case["id"], category=category, calls=case["gold"])
            seen += 1
            if not found["valid"]:
                refused.add(case["id"])
    assert refused == set(bfcl.UNSOLVABLE)
    assert seen == 3_641


def test_gold_paths_of_multi_turn_categories_pass(process) -> None:
    """All 800 pass when the oracle runs on all of them; this test uses every fifth case of two categories."""
    for category in ("multi_turn_base", "multi_turn_long_context"):
        for case in process.ask("cases", category=category)[::5]:
            state = ToolState(process, case["id"])
            assert state.check([[turn] if turn else [] for turn in case["gold"]]) == (True, ""), case["id"]


@pytest.mark.parametrize(
    ("case_id", "text", "failure"),
    [
        ("simple_python_0", calls(("calculate_triangle_area", {"base": 10, "height": 5})), ""),
        ("simple_python_0", calls(("calculate_triangle_area", {"base": 10, "height": 6})), "value_error:others"),
        ("simple_python_0", calls(("calculate_triangle_area", {"base": "10", "height": 5})), "type_error:simple"),
        (
            "simple_python_0",
            calls(("calculate_triangle_area", {"base": 10})),
            "simple_function_checker:missing_required",
        ),
        (
            "simple_python_0",
            calls(("calculate_triangle_area", {"base": 10, "height": 5, "colour": "red"})),
            "simple_function_checker:unexpected_param",
        ),
        ("simple_python_0", calls(("area", {"base": 10, "height": 5})), "simple_function_checker:wrong_func_name"),
        ("simple_python_0", "It is 25.", "simple_function_checker:wrong_count"),
        ("simple_python_0", "", "simple_function_checker:wrong_count"),
        ("simple_python_0", "<tool_call>\n{broken\n</tool_call>", "malformed"),
        (
            "simple_python_0",
            "<think>\n" + calls(("calculate_triangle_area", {"base": 10, "height": 5})) + "\n</think>\n25",
            "simple_function_checker:wrong_count",
        ),
        ("multiple_0", calls(("triangle_properties_get", {"side1": 5, "side2": 4, "side3": 3})), ""),
        (
            "multiple_0",
            calls(("triangle_properties.get", {"side1": 5, "side2": 4, "side3": 3})),
            "simple_function_checker:wrong_func_name",
        ),
        ("irrelevance_0", "No function fits.", ""),
        ("irrelevance_0", "", ""),
        ("irrelevance_0", calls(("determine_body_mass_index", {"weight": 1, "height": 1})), "called"),
        ("live_relevance_0-0-0", "I cannot.", "not_called"),
        ("live_relevance_0-0-0", calls(("anything", {})), ""),
    ],
)
def test_single_turn_verdicts_are_the_packages(process, case_id, text, failure) -> None:
    row = single(process, case_id, text)
    assert (row["failure"], row["correct"]) == (failure, failure == "")


@pytest.mark.parametrize("case_id", ["simple_python_0", "parallel_multiple_0", "simple_java_0", BASE])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 1_000_000,
        '<tool_call>\n{"name": "mkdir", "arguments": {"dir_name": "te',
        calls(("no_such_tool", {"a": [1, {"b": None}]})),
        "\n".join([calls(("ls", {"a": True}))] * 20),
        "```json\n" + calls(("mkdir", {"dir_name": "temp"})) + "\n```",
        "The answer is 25.\n" + calls(("calculate_triangle_area", {"base": 10, "height": 4})),
        calls(("mkdir", {"dir_name": "d" * 1_000_000})),
        calls(("calculate_triangle_area", {"base": {"a": [[[]]]}, "height": None})),
        '<tool_call>\n{"name": "mkdir", "arguments": {"dir_name": NaN, "a b": 1, "class": 2, "": 3}}\n</tool_call>',
        calls(("mkdir", {"dir_name": "\ud800", "x": 10**400})),
        '<tool_call>\n{"name": "mkdir", "arguments": [1, 2]}\n</tool_call>',
        *(
            f'<tool_call>\n{{"name": "mkdir", "arguments": {{"dir_name": {"[" * depth}{"]" * depth}}}}}\n</tool_call>'
            for depth in (300, 900, 950, 5_000)
        ),
    ],
    ids=range(16),
)
def test_hostile_turns_end_in_a_scored_row(process, case_id, text) -> None:
    row = multi(process, case_id, [text]) if case_id == BASE else single(process, case_id, text)
    assert row["correct"] is False
    assert row["failure"]


def test_multi_turn_case_played_by_hand(process) -> None:
    _, case = case_of(process, BASE)
    gold = [calls(*((call["name"], call["arguments"]) for call in turn)) for turn in case["gold"]]
    right = multi(process, BASE, [text for turn in gold for text in (turn, "Done.")])
    assert (right["correct"], right["failure"], right["user_turns"]) == (True, "", 4)
    assert [message["role"] for message in right["messages"][:7]] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "tool",
        "assistant",
        "user",
    ]
    assert "temp" in multi(process, BASE, [gold[0], calls(("ls", {}))])["messages"][6]["content"]
    one_by_one = [calls((call["name"], call["arguments"])) for call in case["gold"][0]]
    assert multi(process, BASE, [*one_by_one, "Done.", *[t for g in gold[1:] for t in (g, "Done.")]])["correct"]
    assert multi(process, BASE, [gold[0]])["failure"] == "multi_turn:empty_turn_model_response"
    wrong = [calls(("cd", {"folder": "document"}), ("mkdir", {"dir_name": "other"})), "Done.", *gold[1:]]
    assert multi(process, BASE, wrong)["failure"] == "multi_turn:instance_state_mismatch"


def test_endless_calls_end_the_case_after_twenty_steps(process) -> None:
    row = multi(process, BASE, [calls(("ls", {}))] * 100)
    assert (row["failure"], row["calls"]) == ("multi_turn:force_terminated", bfcl.MAX_STEPS + 1)


def test_held_out_function_is_offered_in_its_turn(process) -> None:
    row = multi(process, "multi_turn_miss_func_0", [])
    asked = [message["content"] for message in row["messages"] if message["role"] == "user"]
    assert asked[3] == bfcl.ADDED_FUNCTIONS
    _, case = case_of(process, "multi_turn_miss_func_0")
    first = {tool["name"] for tool in case["tools"]}
    assert "sort" not in first and "sort" in row["tools"]


def test_two_games_of_one_case_do_not_share_state(process) -> None:
    one, two = ToolState(process, BASE), ToolState(process, BASE)
    assert one.call("mkdir", {"dir_name": "mine"})[1]
    assert "mine" in one.call("ls", {})[0]
    assert "mine" not in two.call("ls", {})[0]


def test_an_endless_call_is_killed_and_other_cases_continue() -> None:
    with BfclProcess(call_seconds=1.0) as process:
        other = ToolState(process, BASE)
        other.call("mkdir", {"dir_name": "kept"})
        maths = next(
            case["id"]
            for case in process.ask("cases", category="multi_turn_base")
            if any(tool["name"] == "power" for tool in case["tools"])
        )
        state = ToolState(process, maths)
        assert state.call("power", {"base": 2, "exponent": 3}) == ('{"result": 8}', True)
        output, ended = state.call("power", {"base": 9, "exponent": 9**9})
        assert not ended and output.startswith("Error during execution: the call took too much time")
        assert state.call("add", {"a": 1, "b": 2}) == ('{"result": 3}', True)
        assert "kept" in other.call("ls", {})[0]


def test_checker_process_that_died_is_replaced() -> None:
    """Killed from outside: the next request notices it, replaces the process, and is answered."""
    with BfclProcess() as own:
        own.ask("cases", category="simple_java", limit=1)
        assert own._process is not None
        os.kill(own._process.pid, signal.SIGKILL)
        with contextlib.suppress(NoAnswer):  # if the request was written before the death was noticed
            own.ask("cases", category="simple_java", limit=1)
        assert own.ask("cases", category="simple_java", limit=1)[0]["id"] == "simple_java_0"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_arguments_come_back_from_the_call_text_as_they_were_and_hold_no_bracket(value: Any) -> None:
    text = call_text("mkdir", {"dir_name": value}, {"mkdir": ["dir_name"]})
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "mkdir"
    assert ast.literal_eval(call.keywords[0].value) == value
    assert text.count("(") == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("__import__", {"name": "os"}),
        ("open", {"file": "/etc/passwd"}),
        ("importlib.import_module", {"name": "os"}),
        ("mkdir(dir_name='x') or print", {}),
        ("", {}),
        ("_load_scenario", {"scenario": {}}),
        ("mkdir", {"dir_name=print()#": 1}),
        ("mkdir", {"class": 1}),
        ("mkdir", {"": 1}),
    ],
)
def test_only_public_methods_with_named_arguments_are_evaluated(name, arguments, process) -> None:
    assert call_text(name, arguments, {"mkdir": ["dir_name"]}) == UNDEFINED_CALL
    output, _ = ToolState(process, BASE).call(name, arguments)
    assert output.startswith("Error during execution:")


def test_text_with_a_bracket_reaches_the_tool_unchanged(process) -> None:
    state = ToolState(process, BASE)
    state.call("touch", {"file_name": "notes.txt"})
    state.call("echo", {"content": "call sort('a') and mkdir (x)", "file_name": "notes.txt"})
    assert "call sort('a') and mkdir (x)" in state.call("cat", {"file_name": "notes.txt"})[0]


def test_rows_are_resumed_and_replayed(tmp_path) -> None:
    arguments = ["--policy", "random", "--limit", 2, "--categories", "multi_turn_base,irrelevance", "--out"]
    whole = measure(*arguments, tmp_path / "whole")
    measure(*arguments, tmp_path / "cut")
    file = tmp_path / "cut" / "results.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    assert measure(*arguments, tmp_path / "cut")["metrics"] == whole["metrics"]
    arguments[1] = f"replay:{tmp_path / 'whole' / 'results.jsonl'}"
    again = measure(*arguments, tmp_path / "again")
    assert again["metrics"]["correct"] == whole["metrics"]["correct"]
    rows = {row["id"]: row for _, row in read_jsonl(tmp_path / "whole" / "results.jsonl")}
    assert [rows[f"{name}_0"]["correct"] for name in ("irrelevance", "multi_turn_base")] == [False, False]
    assert whole["metrics"]["relevance"]["n"] == 0


def test_bad_flags_are_named(tmp_path) -> None:
    with pytest.raises(BadInput, match="unknown 'simple'; expected some of all, ast"):
        measure("--policy", "oracle", "--out", tmp_path, "--categories", "simple")
    with pytest.raises(BadInput, match="expected bfcl-eval"):
        measure("--policy", "oracle", "--out", tmp_path, "--data", "elsewhere")
    assert bfcl.chosen_categories("multi_turn,simple_java") == ["simple_java", *bfcl.MULTI_TURN]
    assert json.loads(json.dumps(bfcl.METRICS[0].weights)) and Path(bfcl.package_folder()).name == "bfcl_eval"
