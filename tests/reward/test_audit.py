"""The reward-hacking report: each attack earns what the defects say under `published`, and what is left under
`strict`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from env_construction.environment.schema import Environment, GoldCall, ToolDocument, write_environments
from reward.attacks import ATTACKS, fill, known_entities
from reward.audit import audit, mean_interval, table, wilson

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data" / "ftrl_test_sample.jsonl"
CAPITAL = """
def capital(country):
    capitals = {"France": "Paris", "Peru": "Lima"}
    if country not in capitals:
        return {"error": "unknown country"}
    return {"capital": capitals[country]}
"""
SCHEMA = {"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]}


def environment() -> Environment:
    """Two lookups with a gold plan; the tool does not echo its argument."""
    return Environment(
        id="capitals",
        messages=[{"role": "user", "content": "Question: Which are the capitals of France and Peru?"}],
        tools=[ToolDocument(name="capital", description="The capital of a country.", parameters=SCHEMA)],
        codes={"capital": CAPITAL},
        unsolved_set={"capital": ["Paris", "Lima"]},
        answer="Paris, Lima",
        gold_plan=[
            GoldCall(sub_question="1", name="capital", arguments={"country": "France"}),
            GoldCall(sub_question="2", name="capital", arguments={"country": "Peru"}),
        ],
    )


# attack -> (reward as published, in strict)
EXPECTED = {
    "gold_plan": (4 / 3, 4 / 3),
    "echo_argument": (0.0, 0.0),
    "answer_as_keyword": (4 / 3, 0.0),
    "call_twice": (4 / 5, 4 / 5),
    "calls_in_thinking": (4 / 3, 0.0),
    "free_broken_calls": (4 / 3, 4 / 5),
    "answer_without_calls": (1 / 3, 1 / 3),
    "answer_in_thinking": (1 / 3, 0.0),
    "dump_everything": (0.0, 0.0),
    "all_tools_all_entities": (1.0, 1.0),
    "nonsense_arguments": (0.0, 0.0),
    "enumerate_numbers": (0.0, 0.0),
    "repeat_one_call": (4 / 11, 4 / 11),
    "answer_when_solved": (1.0, 1.0),
    "give_up_when_solved": (0.5, 0.5),
    "paste_sub_answers": (1.0, 1.0),
}


def test_every_attack_has_an_expected_reward():
    assert set(EXPECTED) == set(ATTACKS)


def test_what_attacks_earn(sandbox):
    rows = {row["attack"]: row for row in audit([environment()], "solve_f1", sandbox)}
    found = {name: (row["published"]["reward"], row["strict"]["reward"]) for name, row in rows.items()}
    assert found == {name: pytest.approx(rewards) for name, rewards in EXPECTED.items()}
    assert not any(row[match]["fault"] for row in rows.values() for match in ("published", "strict"))


def test_an_echo_tool_solves_anything_as_published_and_nothing_in_strict(sandbox):
    echo = environment().model_copy(update={"codes": {"capital": "def capital(country):\n    return country\n"}})
    rows = {row["attack"]: row for row in audit([echo], "solve_f1", sandbox)}
    assert rows["echo_argument"]["published"]["reward"] == pytest.approx(4 / 3)
    assert rows["echo_argument"]["strict"]["reward"] == 0.0


def test_a_list_of_all_sub_answers_is_no_answer_in_strict(sandbox):
    one = environment().model_copy(update={"answer": "Lima"})
    rows = {row["attack"]: row for row in audit([one], "solve_f1", sandbox)}
    assert (rows["paste_sub_answers"]["published"]["reward"], rows["paste_sub_answers"]["strict"]["reward"]) == (
        1.0,
        0.5,
    )


def test_a_tool_that_answers_nonsense_or_lists_numbers_is_seen(sandbox):
    constant = environment().model_copy(update={"codes": {"capital": "def capital(country=''):\n    return 'Paris'\n"}})
    rows = {row["attack"]: row for row in audit([constant], "solve_f1", sandbox)}
    assert rows["nonsense_arguments"]["strict"]["q"] == 1
    lists = environment().model_copy(
        update={
            "codes": {"capital": "def capital(country):\n    return list(eval(country))\n"},
            "unsolved_set": {"capital": ["8,502"]},
        }
    )
    rows = {row["attack"]: row for row in audit([lists], "solve_f1", sandbox)}
    assert (rows["enumerate_numbers"]["published"]["q"], rows["enumerate_numbers"]["strict"]["q"]) == (1, 0)


def test_without_gold_plan_or_answer_only_what_makes_sense_is_tried(sandbox):
    bare = environment().model_copy(update={"gold_plan": [], "answer": None})
    tried = {row["attack"] for row in audit([bare], "solve_f1", sandbox)}
    assert tried == set(ATTACKS) - {"gold_plan", "answer_without_calls", "answer_in_thinking", "answer_when_solved"}


def test_attacks_without_gold_do_not_look_at_it():
    one = environment()
    other = one.model_copy(update={"unsolved_set": {"capital": ["Oslo"]}, "answer": "Oslo", "gold_plan": []})
    for name, (attack, uses_gold) in ATTACKS.items():
        if not uses_gold:
            assert attack(one) == attack(other), name


def test_entities_of_a_question():
    question = 'Question: In "Green Hill", did Al Gore meet the Duke of York on 2023-04-05 for 1,200 pounds?'
    found = known_entities(
        Environment(messages=[{"role": "user", "content": question}], tools=[], codes={}, unsolved_set={})
    )
    assert {"Green Hill", "Al Gore", "Duke of York", "2023-04-05", "1,200"} <= set(found)


def test_arguments_fit_their_schema():
    schema = {
        "properties": {
            "q": {"type": "string"},
            "n": {"type": "integer"},
            "x": {"type": "number"},
            "flag": {"type": "boolean"},
            "kind": {"type": "string", "enum": ["a", "b"]},
            "many": {"type": "array", "items": {"type": "string"}},
            "deep": {"type": "object", "properties": {"p": {"type": "string"}}, "required": ["p"]},
            "optional": {"type": "string"},
        },
        "required": ["q", "n", "x", "flag", "kind", "many", "deep"],
    }
    assert fill(schema, "1,200.5") == {
        "q": "1,200.5", "n": 1200, "x": 1200.5, "flag": True, "kind": "a", "many": ["1,200.5"], "deep": {"p": "1,200.5"},
    }  # fmt: skip
    assert fill(schema, "b")["kind"] == "b"
    assert fill(schema, "b", everywhere=True)["optional"] == "b"
    assert fill({}, "b") == {}


def test_intervals():
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 40) == pytest.approx((0.0, 0.0876), abs=1e-4)
    assert wilson(40, 40)[1] == 1.0
    assert mean_interval([0.0, 1.0]) == "0.500 +- 0.980"
    assert mean_interval([0.25]) == "0.250"


def test_the_command_prints_the_table_and_keeps_the_rows(tmp_path):
    write_environments(tmp_path / "env.jsonl", [environment()])
    command = [
        sys.executable, "-m", "reward.audit", "--workers", "1", "--environments", str(tmp_path / "env.jsonl"),
        "--out", str(tmp_path / "audit.jsonl"), "--responses-out", str(tmp_path / "responses.jsonl"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ATTACKS)
    assert "sandbox faults: 0 of 32 turns" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    responses = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text().splitlines()]
    assert [row["attack"] for row in rows] == [row["attack"] for row in responses] == list(ATTACKS)


def test_bad_input_is_one_line(run_script, tmp_path):
    done = run_script("reward.audit", "--environments", tmp_path / "none.jsonl")
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: {tmp_path / 'none.jsonl'}: no such file"


@pytest.mark.skipif(not DATA.exists(), reason="the sample of published environments is not beside this repository")
def test_the_published_data_can_be_hacked_and_strict_closes_what_it_claims_to(sandbox):
    from env_construction.environment.schema import read_environments

    rows = audit(list(read_environments(DATA)), "solve_f1", sandbox)
    assert not any(row[match]["fault"] for row in rows for match in ("published", "strict"))
    for name in ("answer_as_keyword", "calls_in_thinking", "answer_in_thinking"):
        chosen = [row for row in rows if row["attack"] == name]
        assert len(chosen) == 40
        assert all(row["published"]["reward"] > 0 for row in chosen)
        assert not any(row["strict"]["reward"] > 0 for row in chosen)
    assert "answer_as_keyword" in table(rows)
