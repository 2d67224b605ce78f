"""Flip rates, intraclass correlation and pass^k on known numbers; totals of tokens and seconds."""

import numpy as np
import pytest

from eval.suites.noise import cost, intraclass_correlation, noise, noise_text, trials_by_case
from eval.suites.results import GroupedMean, RatioMetric, f1_of_means


def rows_of(cases: list[list[float | None]], column: str = "x") -> list[dict]:
    return [
        {"id": str(case), "trial": trial, column: value, "outcome": "ended"}
        for case, trials in enumerate(cases)
        for trial, value in enumerate(trials)
    ]


def test_flips_and_pass_k_of_yes_no_cases():
    found = noise(rows_of([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]), ["x"])["x"]
    assert (found["trials"], found["flip_rate"]["value"], found["flip_rate"]["n"]) == (4, 0.5, 4)
    assert [found[f"pass^{k}"]["value"] for k in (1, 2, 3, 4)] == pytest.approx([7 / 16, (1 + 1 / 6) / 4, 1 / 4, 1 / 4])
    assert 0 < found["flip_rate"]["low"] < 0.5 < found["flip_rate"]["high"] < 1


def test_correlation_equals_the_analysis_of_variance():
    cases = [
        np.array(row, dtype=float)
        for row in ([9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7])
    ]
    found = intraclass_correlation(cases)
    assert found.value == pytest.approx(0.166, abs=5e-4), "Shrout and Fleiss 1979, table 4: ICC(1,1) is .17"
    assert found.n == 6 and found.low is not None and found.low < 0.166 < found.high


def test_correlation_of_cases_that_never_flip_and_of_pure_chance():
    assert intraclass_correlation([np.array([1.0, 1.0]), np.array([0.0, 0.0])]).value == pytest.approx(1.0)
    draw = np.random.default_rng(0)
    chance = intraclass_correlation([draw.integers(0, 2, 4).astype(float) for _ in range(400)])
    assert chance.value == pytest.approx(0.0, abs=0.06)
    assert chance.low < 0 < chance.high
    assert intraclass_correlation([np.ones(2), np.ones(2)]).value is None, "nothing varies"
    assert intraclass_correlation([np.ones(2)]).value is None


def test_correlation_with_unequal_trial_counts_is_near_the_truth():
    """Cases' means with variance 1, trials with variance 1: half of a trial's variance is between cases."""
    draw = np.random.default_rng(1)
    cases = [
        draw.normal(mean, 1, size) for mean, size in zip(draw.normal(0, 1, 600), draw.integers(2, 6, 600), strict=True)
    ]
    assert intraclass_correlation(cases).value == pytest.approx(0.5, abs=0.05)


def test_without_repeats_noise_is_empty_and_faults_do_not_count():
    assert noise(rows_of([[1], [0]]), ["x"]) == {}
    assert noise_text({}, "x") == ""
    rows = [*rows_of([[1, 1], [0, 0]]), {"id": "0", "trial": 2, "x": 0, "outcome": "fault"}]
    assert noise(rows, ["x"])["x"]["flip_rate"]["value"] == 0.0


def test_which_metrics_have_noise():
    rows = [row | {"turns": 3 + row["trial"], "y": row["x"] / 3} for row in rows_of([[1, 0], [1, 1], [0, 0]])]
    metrics = ["x", "y", "turns", "absent", RatioMetric("f", ("x", "x"), f1_of_means), GroupedMean("m", "x", "id")]
    found = noise(rows, metrics)
    assert list(found) == ["x", "y"]
    assert "pass^2" in found["x"] and not any(name.startswith("pass") for name in found["y"])
    assert noise_text(found, "x").startswith("33.3 [")
    assert "over 2 trials; intraclass correlation " in noise_text(found, "x")


def test_rows_of_one_cluster_are_different_cases():
    rows = [{"id": i, "trial": 0, "cluster": "q", "x": i == "a"} for i in ("a", "b")]
    assert [len(values) for values in trials_by_case(rows, "x")] == [1, 1]


def test_cost_adds_up_and_unknown_columns_are_omitted():
    turns = [{"prompt_tokens": 10}, {"prompt_tokens": 30}]
    rows = [
        {"id": "a", "trial": 0, "turn_scores": turns, "completion_tokens": 5, "seconds": 1.5},
        {"id": "b", "trial": 0, "turn_scores": [{"prompt_tokens": 20}], "completion_tokens": 7, "seconds": 0.5},
        {"id": "c", "trial": 0, "outcome": "fault"},
    ]
    found = cost(rows)
    assert {name: item["total"] for name, item in found.items()} == {
        "tokens_read": 60,
        "tokens_written": 12,
        "seconds": 2.0,
    }
    assert found["tokens_read"]["per_episode"]["value"] == 30.0
    assert found["tokens_read"]["per_episode"]["low"] < 30 < found["tokens_read"]["per_episode"]["high"]
    assert cost([{"id": "a", "trial": 0, "turn_scores": [{"prompt_tokens": None}]}]) == {}
