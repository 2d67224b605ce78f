"""`python -m reward.score`: what it writes, what it explains, and how it meets bad input."""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from env_construction.sandbox.tool_sandbox import ToolCall
from reward.score import shares_of
from reward.tool_calls import render_call

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    "messages": [{"role": "user", "content": "Where?"}],
    "tools": "[]",
    "codes": json.dumps({"say": "def say(text):\n    return text[::-1]\n"}),
    "unsolved_set": json.dumps({"say": ["Paris", "2"]}),
    "solve_rate": 0.0,
    "answer": "Lima",
    "id": "e1",
}
PARIS = render_call(ToolCall("say", {"text": "siraP"}))


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def score(run_script):
    return partial(run_script, "reward.score", "--workers", 1)


@pytest.fixture
def files(tmp_path):
    environments = write(tmp_path / "env.jsonl", ENVIRONMENT, {**ENVIRONMENT, "id": "e2", "solve_rate": 1.0})
    responses = write(
        tmp_path / "resp.jsonl",
        {"id": "e1", "response": PARIS + "\n" + render_call(ToolCall("say", {"text": "3202 ni"}))},
        {"id": "e2", "response": "I give up."},
        {"id": "e1", "response": "<tool_call>{"},
        {"id": "e1", "response": "It is Lima.<|im_end|>"},
        {"id": "e1", "response": ""},
        {"id": "e1", "response": "<tool_call>{</tool_call>" + PARIS},
    )
    return environments, responses, tmp_path / "deep" / "out.jsonl"


def test_scores_in_order_with_their_parts(files):
    environments, responses, out = files
    command = [sys.executable, "-m", "reward.score", "--workers", "1", "--environments", environments]
    done = subprocess.run(
        [*command, "--responses", responses, "--out", out], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [set(row) for row in rows] == [{"id", "reward", "kind", "p", "q", "t", "fault"}] * 6
    assert [(row["id"], row["kind"], row["p"], row["q"], row["t"]) for row in rows] == [
        ("e1", "calls", 2, 2, 2),
        ("e2", "all_solved_no_answer", 0, 0, 2),
        ("e1", "malformed", 0, 0, 2),
        ("e1", "answer", 0, 0, 2),
        ("e1", "empty", 0, 0, 2),
        ("e1", "calls", 1, 1, 2),
    ]
    assert [row["reward"] for row in rows] == pytest.approx([4 / 3, 0.5, -0.3, 1 / 3, -0.5, 1.0])
    assert f"wrote {out}: 6 responses" in done.stdout
    assert "sandbox faults: 0" in done.stdout


def test_variant_and_match_are_honoured(score, files):
    environments, responses, out = files
    done = score(
        "--environments", environments, "--responses", responses, "--out", out,
        "--variant", "solve_recall", "--match", "strict",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(row["p"], row["q"], row["reward"]) for row in rows[:1] + rows[-1:]] == [(2, 1, 1.0), (2, 1, 1.0)]


def test_explain_shows_each_call_its_output_and_what_it_solved(score, files):
    environments, responses, out = files
    done = score("--environments", environments, "--responses", responses, "--out", out, "--explain")
    assert done.returncode == 0, done.stderr
    assert "e1: reward 1.3333 (calls; p=2 q=2 t=2)" in done.stdout
    assert 'call 1: say({"text": "siraP"})\n    ok: Paris\n    solves \'Paris\'' in done.stdout
    assert 'call 2: say({"text": "3202 ni"})\n    ok: in 2023\n    solves \'2\'' in done.stdout
    assert "not a call: <tool_call>{" in done.stdout


BAD: dict[str, Any] = {
    "no such file": (None, [], "env.jsonl: no such file"),
    "broken line": ("{broken\n", [], "env.jsonl:1: expected one JSON object a line"),
    "no codes": ('{"messages": [], "tools": [], "unsolved_set": {}}\n', [], "env.jsonl:1: key 'codes' is missing"),
    "numeric gold": (
        json.dumps({**ENVIRONMENT, "unsolved_set": '{"say": [5]}'}),
        [],
        "env.jsonl:1: key 'unsolved_set.say.0'",
    ),
    "id twice": (json.dumps(ENVIRONMENT) + "\n" + json.dumps(ENVIRONMENT), [], "env.jsonl:2: key 'id': 'e1'"),
    "empty": ("", [], "expected at least one environment"),
    "unknown id": (json.dumps(ENVIRONMENT), [{"id": "e9", "response": ""}], "resp.jsonl:1: key 'id'"),
    "id no string": (json.dumps(ENVIRONMENT), [{"id": ["e1"], "response": ""}], "resp.jsonl:1: key 'id'"),
    "no response": (json.dumps(ENVIRONMENT), [{"id": "e1"}], "resp.jsonl:1: key 'response' is missing"),
    "response no text": (json.dumps(ENVIRONMENT), [{"id": "e1", "response": 5}], "expected a string, got int"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing_over(score, name, tmp_path):
    environments, responses, complaint = BAD[name]
    if environments is not None:
        (tmp_path / "env.jsonl").write_text(environments, encoding="utf-8")
    write(tmp_path / "resp.jsonl", *responses)
    out = tmp_path / "out.jsonl"
    out.write_text("kept\n", encoding="utf-8")
    done = score("--environments", tmp_path / "env.jsonl", "--responses", tmp_path / "resp.jsonl", "--out", out)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert out.read_text(encoding="utf-8") == "kept\n"


def test_strict_refuses_empty_gold_at_load_time(score, tmp_path):
    environments = write(
        tmp_path / "env.jsonl", ENVIRONMENT, {**ENVIRONMENT, "id": "e2", "unsolved_set": '{"say": [""]}'}
    )
    responses = write(tmp_path / "resp.jsonl", {"id": "e1", "response": "x"})
    arguments = ["--environments", environments, "--responses", responses, "--out", tmp_path / "out.jsonl"]
    done = score(*arguments, "--match", "strict")
    assert done.returncode == 2
    assert "env.jsonl:2: key 'unsolved_set.say': expected an answer with a letter or digit" in done.stderr
    assert score(*arguments, "--match", "published").returncode == 0


def test_the_output_may_not_be_an_input(score, files):
    environments, responses, _ = files
    before = environments.read_bytes()
    done = score("--environments", environments, "--responses", responses, "--out", environments)
    assert done.returncode == 2
    assert "neither an input nor a folder" in done.stderr
    assert environments.read_bytes() == before


def test_help_shows_an_example(score):
    done = score("--help")
    assert done.returncode == 0
    assert "python -m reward.score --environments" in done.stdout


LARGE = "x" * (1 << 20)
"""Makes a record of a megabyte, so that 70 of them are read by two processes."""


def large(path: Path, *more: dict[str, Any]) -> Path:
    records = [{**ENVIRONMENT, "id": f"e{number}", "data_source": LARGE} for number in range(70)]
    return write(path, *records, *more)


def in_a_process(*arguments):
    command = [sys.executable, "-m", "reward.score", "--workers", "1", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_several_processes_score_a_large_file_as_one_does(tmp_path, capfd):
    environments = large(tmp_path / "env.jsonl")
    texts = [PARIS, "It is Lima.", PARIS + PARIS, ""]
    order = [(7 * number) % 70 for number in range(200)]
    responses = write(tmp_path / "resp.jsonl", *({"id": f"e{place}", "response": texts[place % 4]} for place in order))
    written = []
    for workers in ("1", "3"):
        out = tmp_path / f"{workers}.jsonl"
        done = in_a_process(
            "--environments", environments, "--responses", responses, "--out", out, "--workers", workers
        )
        assert done.returncode == 0, done.stderr
        written.append((out.read_bytes(), done.stdout.replace(str(out), "")))
    assert written[0] == written[1]
    assert [json.loads(line)["id"] for line in written[0][0].splitlines()] == [f"e{place}" for place in order]
    assert _processes(environments, 3) == 2 and _processes(environments, 1) == 1


def _processes(environments: Path, workers: int) -> int:
    return shares_of(argparse.Namespace(environments=environments, workers=workers))


@pytest.mark.parametrize(
    ("more", "answers", "complaint"),
    [
        ({**ENVIRONMENT, "id": "e1"}, "e1", "env.jsonl:71: key 'id': 'e1' stands in the file twice"),
        ({**ENVIRONMENT, "id": "e70", "codes": "["}, "e1", "env.jsonl:71: key 'codes'"),
        ({**ENVIRONMENT, "id": "e70"}, "e99", "resp.jsonl:1: key 'id': no environment has the id 'e99'"),
    ],
)
def test_bad_input_in_a_large_file_is_one_line_too(more, answers, complaint, tmp_path):
    environments = large(tmp_path / "env.jsonl", more)
    responses = write(tmp_path / "resp.jsonl", {"id": answers, "response": PARIS})
    out = tmp_path / "out.jsonl"
    done = in_a_process("--environments", environments, "--responses", responses, "--out", out, "--workers", "2")
    assert done.returncode == 2
    assert complaint in done.stderr.splitlines()[-1]
    assert not out.exists()
