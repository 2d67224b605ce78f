"""The gain of choosing on the test split: exact values, zero without variation, and the figure of a run."""

from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from analysis.run_data.run_folder import NotPlanned, Run
from analysis.selection_on_test import (
    CANDIDATES,
    binomial_gain,
    build,
    candidates_of,
    centered_scores,
    simulated_gains,
)


def largest_normal(k: int) -> float:
    """The expected largest of k standard normal values."""
    x = np.linspace(-8, 8, 20001)
    return float(np.trapezoid(x * k * norm.pdf(x) * norm.cdf(x) ** (k - 1), x))


def test_the_binomial_gain_is_exact_for_few_cases_and_normal_for_many():
    assert binomial_gain(0.5, 1) == pytest.approx(0.0, abs=1e-12)
    assert binomial_gain(0.5, 2, cases=1) == pytest.approx(0.25), "the better of two coins: 3/4"
    assert binomial_gain(0.4, 8) == pytest.approx(largest_normal(8) * sqrt(0.24 / 200), rel=0.02)
    assert binomial_gain(0.0, 8) == binomial_gain(1.0, 8) == pytest.approx(0.0)


def test_simulated_checkpoints_of_coins_gain_what_the_binomial_says():
    """Every case is solved by two of five policies: a checkpoint solves each with probability 0.4, independently."""
    found = simulated_gains([np.array([1.0, 1.0, 0.0, 0.0, 0.0])] * 50, candidates=(1, 8))
    assert found[8][0] == pytest.approx(binomial_gain(0.4, 8), rel=0.05)
    assert found[1][0] == pytest.approx(0.0, abs=0.002)
    assert found[8][1] < found[8][0] < found[8][2]


def test_where_policies_agree_there_is_nothing_to_choose_from():
    scores = centered_scores([rows([1, 0, 1]), rows([1, 0, 1])], "x")
    assert all(gain == pytest.approx((0.0, 0.0, 0.0), abs=1e-12) for gain in simulated_gains(scores).values())


def rows(values: list[float]) -> list[dict]:
    return [{"id": str(i), "trial": 0, "x": value} for i, value in enumerate(values)]


def test_a_better_policy_is_moved_to_the_mean_of_all():
    first, second = centered_scores([rows([0.0, 0.5]), rows([0.5, 1.0])], "x")
    np.testing.assert_allclose(first, [0.25, 0.25])
    np.testing.assert_allclose(second, [0.75, 0.75])
    assert centered_scores([rows([1.0]), [{"id": "other", "trial": 0, "x": 1.0}]], "x") == []


def test_the_run_has_a_table_and_a_figure(synthetic_run: Path, tmp_path: Path):
    run = Run.open(synthetic_run)
    assert candidates_of(run) == ["grpo", "reinforce++", "grpo-solve-pr", "grpo-shuffled"]
    [artifact] = build(run)
    f1 = [row for row in artifact.rows if row["metric"] == "solve_f1"]
    assert [row["candidates"] for row in f1] == list(CANDIDATES)
    gains = [row["gain_points"] for row in f1]
    assert gains == sorted(gains) and gains[0] == pytest.approx(0, abs=0.3) and gains[-1] > 2
    assert all(row["gain_points_low"] <= row["gain_points"] <= row["gain_points_high"] for row in f1)
    assert f1[0]["n"] == 24 and f1[0]["policies"] == 4
    names = {path.suffix for path in artifact.write(tmp_path)}
    assert names == {".csv", ".txt", ".png", ".svg", ".pdf"}


def test_one_policy_is_no_choice(synthetic_run: Path, tmp_path: Path):
    import shutil

    from train.stages.policy_roles import read_roles, write_roles

    shutil.copytree(synthetic_run / "eval" / "grpo", tmp_path / "run" / "eval" / "start")
    write_roles(tmp_path / "run", {"start": read_roles(synthetic_run)["start"]})
    with pytest.raises(NotPlanned, match="fewer than two policies"):
        build(Run.open(tmp_path / "run"))
