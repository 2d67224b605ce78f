"""The protocol header and its name cover everything that was measured; different protocols are refused."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import write_environments
from eval import compare as script
from eval import environments as environments_suite
from eval.run import SUITES
from eval.suites.protocol import FORMULAS, protocol, protocol_differences, protocol_of

CONFIGURATION: dict[str, Any] = {
    "policy": "hf:a", "policy_content": {"weights": "1"}, "limit": None, "trials": 1, "seed": 0, "temperature": 0.0,
    "max_new_tokens": 128, "max_prompt_tokens": None, "thinking": False, "dtype": None,
    "max_turns": 20, "match": "published",
    "data_sha256": "ab12",
}  # fmt: skip
DATA = {"test.jsonl": "ab12" * 16}


def header(suite: str = "environments", data: dict[str, str] = DATA, **changes: Any) -> dict[str, Any]:
    return protocol(suite, {**CONFIGURATION, **changes}, data)


def test_every_suite_states_the_formula_of_each_headline_metric():
    assert set(FORMULAS) == set(SUITES)
    for name, suite in SUITES.items():
        assert set(importlib.import_module(suite.module).HEADLINES) <= set(FORMULAS[name])


def test_the_name_contains_the_header():
    assert header()["name"] == "environments/test-ab12ab12/plain/turns20/greedy-128/published/seed0-trials1"
    more = header(thinking=True, temperature=0.7, max_prompt_tokens=512, match="strict", trials=4, seed=3, limit=50)
    assert more["name"] == "environments/test-ab12ab12/thinking/turns20/t0.7-128of512/strict/seed3-trials4-first50"
    two = header("tau_bench", {"a.json": "1" * 64, "b.json": "2" * 64}, user_model="gpt", match="strict")
    assert two["name"].startswith("tau_bench/2files-") and "/set-" in two["name"]
    without = {key: value for key, value in CONFIGURATION.items() if key not in ("max_turns", "match")}
    assert protocol("rotbench", without, DATA)["turns"] == 1 and protocol("bfcl", without, DATA)["turns"] is None
    assert (protocol("rotbench", without, DATA)["matching"], protocol("bfcl", without, DATA)["matching"]) == (
        "both",
        "suite",
    )


# configuration change -> reported difference
DECIDING = {
    "mode: plain, thinking": {"thinking": True},
    "turns: 20, 10": {"max_turns": 10},
    "decoding temperature: 0.0, 0.7": {"temperature": 0.7},
    "decoding max_new_tokens: 128, 64": {"max_new_tokens": 64},
    "decoding max_prompt_tokens: not set, 64": {"max_prompt_tokens": 64},
    "matching: published, strict": {"match": "strict"},
}


@pytest.mark.parametrize(("said", "change"), DECIDING.items())
def test_measurement_settings_are_differences_and_change_the_name(said, change):
    assert protocol_differences(header(), header(**change)) == [said]
    assert header(**change)["name"] != header()["name"]


def test_another_split_or_suite_or_setting_is_a_difference():
    assert protocol_differences(header(), header(data={"test.jsonl": "cd34"})) == [
        f"split test.jsonl: {'ab12' * 10}... (" + _hash() + "), cd34"
    ]
    assert protocol_differences(header(), header("toolhop"))[0] == "suite: environments, toolhop"
    a, b = header("tau_bench", user_model="gpt-4o"), header("tau_bench", user_model="qwen")
    assert protocol_differences(a, b) == ["settings user_model: gpt-4o, qwen"]
    assert protocol_differences(header("tau_bench"), b) == [], "what one side does not know is no difference"


def _hash() -> str:
    from eval.suites.protocol import _short_hash

    return _short_hash("ab12" * 16)


@pytest.mark.parametrize(
    "change", [{"policy": "hf:b"}, {"policy_content": {"weights": "2"}}, {"seed": 1}, {"trials": 4}, {"limit": 3}]
)
def test_the_policy_and_the_sample_size_are_not_differences(change):
    assert protocol_differences(header(), header(**change)) == []


def write(folder: Path, values: list[int], **summary: Any) -> str:
    folder.mkdir()
    rows = [{"id": str(i), "trial": 0, "x": value} for i, value in enumerate(values)]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    return str(folder)


def test_comparison_across_protocols_is_refused_unless_asked_for(tmp_path, monkeypatch, capsys):
    a = write(tmp_path / "a", [0, 1, 1], suite="environments", protocol=header())
    b = write(tmp_path / "b", [1, 1, 1], suite="environments", protocol=header(thinking=True, seed=1))
    monkeypatch.setattr(sys, "argv", ["compare", a, b])
    with pytest.raises(BadInput, match=r"different protocols \(mode: plain, thinking\).*--across-protocols"):
        script.main()
    monkeypatch.setattr(sys, "argv", ["compare", a, b, "--across-protocols", "--out", str(tmp_path / "c.json")])
    assert script.main() == 0
    said, found = capsys.readouterr().out, json.loads((tmp_path / "c.json").read_text())
    assert "ACROSS PROTOCOLS, so not the gain of a policy: mode: plain, thinking" in said
    assert "sampled differently: seed: 0, 1" in said
    assert found["protocol_differences"] == ["mode: plain, thinking"] and found["metrics"]["x"]["n"] == 3


def test_older_results_get_a_header_from_their_configuration(tmp_path, monkeypatch, capsys):
    old = {"suite": "environments", "configuration": {**CONFIGURATION, "max_turns": 5}, "data_sha256": DATA}
    a = write(tmp_path / "a", [0, 1], **old)
    assert protocol_of(a) == protocol_of(Path(a) / "results.jsonl") == header(max_turns=5)
    b = write(tmp_path / "b", [0, 1], suite="environments", protocol=header())
    monkeypatch.setattr(sys, "argv", ["compare", a, b])
    with pytest.raises(BadInput, match="turns: 5, 20"):
        script.main()
    unknown = write(tmp_path / "unknown", [1, 1])
    assert protocol_of(unknown) is None
    monkeypatch.setattr(sys, "argv", ["compare", a, unknown])
    assert script.main() == 0
    assert f"protocols {header(max_turns=5)['name']} and unknown" in capsys.readouterr().out


def test_every_summary_says_how_it_was_made_how_noisy_it_is_and_what_it_cost(
    environments, tmp_path, monkeypatch, capsys
):
    data = tmp_path / "test.jsonl"
    write_environments(data, environments)
    line = ["--policy", "random", "--data", data, "--out", tmp_path / "out", "--trials", 3, "--max-turns", 4]
    monkeypatch.setattr(sys, "argv", ["environments", *map(str, line)])
    assert environments_suite.main() == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["protocol"]["name"].endswith("/plain/turns4/greedy-1024/published/seed0-trials3")
    assert summary["protocol"]["split"] == summary["data_sha256"]
    assert protocol_of(tmp_path / "out") == summary["protocol"]
    assert summary["noise"]["solve_f1"]["flip_rate"]["n"] == len(environments)
    assert {"pass^1", "pass^2", "pass^3"} <= summary["noise"]["answer_correct"].keys()
    assert summary["cost"]["seconds"]["per_episode"]["n"] == len(environments)
    assert {"tokens_read", "tokens_written"} <= summary["cost"].keys()
    assert "cases flip in solve_f1 over 3 trials" in capsys.readouterr().out
