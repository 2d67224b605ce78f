"""Estimates: clustered intervals, missing values, ratio metrics, required content of a summary."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, norm

from env_construction.environment.jsonl import BadInput
from eval.statistics.estimates import Estimate
from eval.statistics.intervals import resampled_means
from eval.statistics.paired import resolvable
from eval.suites.results import (
    GroupedMean,
    RatioMetric,
    estimate,
    f1_of_means,
    git_commit,
    read_rows,
    smallest_resolvable_difference,
    summarize,
    table_text,
    write_summary,
)

F1 = RatioMetric("f1", ("p", "r"), f1_of_means)


def rows_of(values: list[float | None], column: str = "x") -> list[dict]:
    return [{"id": str(i), "trial": 0, column: value} for i, value in enumerate(values)]


def test_interval_agrees_with_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).beta(2, 3, size=80)
    found = estimate(rows_of(values.tolist()), "x")
    reference = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.004)
    assert found.n == 80


def test_interval_of_means_has_its_nominal_coverage() -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        sample = generator.normal(0.5, 0.2, size=(50, 1))
        low, high = np.quantile(resampled_means(sample, np.ones_like(sample), seed=3, resamples=800), [0.025, 0.975])
        covered += low <= 0.5 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_trials_of_a_case_are_resampled_together() -> None:
    """Copies of the same trial carry no information: the interval must not shrink."""
    once = rows_of([0.0, 1.0] * 20)
    copied = [{**row, "trial": trial} for row in once for trial in range(10)]
    assert estimate(copied, "x") == estimate(once, "x")


def test_case_without_a_value_is_excluded_from_the_mean_and_n() -> None:
    found = estimate(rows_of([1.0, None, 0.0, None]), "x")
    assert (found.value, found.n) == (0.5, 2)
    assert estimate(rows_of([None]), "x").as_dict() == {"value": None, "low": None, "high": None, "n": 0}


def test_f1_of_averages_differs_from_the_average_of_f1() -> None:
    rows = [{"id": "a", "p": 1.0, "r": 0.1}, {"id": "b", "p": 0.2, "r": 0.9}]
    found = estimate(rows, F1)
    assert found.value == pytest.approx(2 * 0.6 * 0.5 / 1.1)
    assert found.low is not None and found.high is not None
    assert 0 <= found.low < found.value < found.high <= 1  # type: ignore[operator]
    nothing = estimate([{"id": "a", "p": 0.0, "r": 0.0}], F1)
    assert (nothing.value, nothing.low) == (0.0, 0.0) and nothing.high > 0.5  # type: ignore[operator]


def test_interval_of_a_ratio_of_many_cases_is_scipys_percentile_bootstrap() -> None:
    p, r = np.random.default_rng(3).beta(2, 3, size=(2, 60))
    found = estimate([{"id": str(i), "p": a, "r": b} for i, (a, b) in enumerate(zip(p, r, strict=True))], F1)

    def f1(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return f1_of_means(np.atleast_1d(a.mean(axis=axis)), np.atleast_1d(b.mean(axis=axis))).squeeze()

    wanted = bootstrap((p, r), f1, paired=True, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.004)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 5))
def test_interval_of_a_share_contains_the_value_stays_within_0_and_1_and_has_a_width(values, seed) -> None:
    found = estimate(rows_of(values), "x", seed)
    assert found.value is not None and found.low is not None and found.high is not None
    assert 0 <= found.low <= found.value + 1e-9 and found.value - 1e-9 <= found.high <= 1
    assert found.high - found.low > 0.01
    assert found == estimate(rows_of(values)[::-1], "x", seed)


def test_resolvable_difference_has_80_percent_power() -> None:
    n, spread = 100, 0.3
    difference = resolvable(spread, n)
    shift = difference * math.sqrt(n) / spread
    assert norm.sf(norm.ppf(0.975) - shift) == pytest.approx(0.80, abs=0.001)


def test_smallest_resolvable_difference_shrinks_with_n_and_needs_spread() -> None:
    few, many = rows_of([0.0, 1.0] * 10), rows_of([0.0, 1.0] * 40)
    a, b = smallest_resolvable_difference(few, "x"), smallest_resolvable_difference(many, "x")
    assert a is not None and b is not None
    assert a / b == pytest.approx(2, rel=0.05)
    assert smallest_resolvable_difference(rows_of([1.0, 1.0]), "x") is None
    assert smallest_resolvable_difference(rows_of([1.0]), "x") is None


def test_a_mean_of_groups_is_resolved_as_well_as_its_smallest_group_allows() -> None:
    """Half of the weight is on few cases, so they decide; the other groups' cases do not count."""
    rows = [
        {"id": f"{i}", "x": float(i % 2), "g": "few" if i < 10 else "many" if i < 410 else "other"} for i in range(900)
    ]
    mean = GroupedMean("m", "x", "g", {"few": 0.5, "many": 0.5})
    few, many = (np.var([row["x"] for row in rows if row["g"] == name], ddof=1) for name in ("few", "many"))
    wanted = resolvable(math.sqrt(2 * (few / 10 + many / 400) / 4), 1)
    assert smallest_resolvable_difference(rows, mean) == pytest.approx(wanted)
    assert wanted > 4 * (smallest_resolvable_difference(rows, "x") or 0)
    assert smallest_resolvable_difference(rows[9:], mean) is None, "a group with one case"
    assert smallest_resolvable_difference(rows[10:], mean) is None, "a group without a case"


def test_summary_excludes_and_counts_faults_and_groups_rows(tmp_path) -> None:
    data = tmp_path / "cases.jsonl"
    data.write_text("{}\n")
    rows = [
        {"id": "a", "outcome": "answered", "failure": "", "kind": "easy", "x": 1.0},
        {"id": "b", "outcome": "answered", "failure": "unsolved", "kind": "hard", "x": 0.0},
        {"id": "c", "outcome": "fault", "failure": "fault", "kind": "hard", "x": 0.0},
    ]
    summary = summarize("suite", "p", rows, ["x"], groups={"by_kind": "kind"}, data=[data], extra={"match": "strict"})
    assert summary["metrics"]["x"]["value"] == 0.5
    assert (summary["rows"], summary["cases"], summary["faults"]) == (3, 3, 1)
    assert summary["failures"] == {"unsolved": 1}
    assert {kind: table["x"]["value"] for kind, table in summary["by_kind"].items()} == {"easy": 1.0, "hard": 0.0}
    assert summary["by_kind"]["hard"]["x"]["n"] == 1
    assert len(summary["data_sha256"]["cases.jsonl"]) == 64
    assert summary["match"] == "strict"
    assert {"numpy", "scipy", "python"} <= summary["versions"].keys()
    assert json.loads(write_summary(tmp_path, summary).read_text()) == summary
    text = table_text({"all": summary["metrics"], **summary["by_kind"]}, ["x"])
    assert "50.0 [9.5, 90.5]" in text  # Wilson's interval for 1 of 2
    assert "100.0 [20.7, 100.0]" in text


def test_commit_of_this_checkout_is_recorded() -> None:
    commit = git_commit()
    assert commit is None or len(commit.removesuffix("+changes")) == 40


def test_empty_or_missing_results_are_refused(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"results.jsonl: no such file"):
        read_rows(tmp_path)
    (tmp_path / "results.jsonl").write_text("")
    with pytest.raises(BadInput, match=r"results.jsonl: contains no rows"):
        read_rows(tmp_path)


def level_rows() -> list[dict]:
    """Two levels of 2 and 6 cases; each question is asked once in `small` and three times in `large`."""
    scores = {("q0", "small"): [1.0], ("q1", "small"): [0.0], ("q0", "large"): [1, 1, 0], ("q1", "large"): [0, 0, 1]}
    return [
        {"id": f"{level}-{question}-{place}", "trial": 0, "cluster": question, "level": level, "x": float(value)}
        for (question, level), values in scores.items()
        for place, value in enumerate(values)
    ]


def test_mean_of_groups_uses_equal_or_given_weights() -> None:
    rows = level_rows()[:-1]  # the large level has five cases: 2 of 5 right
    assert estimate(rows, GroupedMean("m", "x", "level")).value == pytest.approx((1 / 2 + 2 / 5) / 2)
    told = GroupedMean("m", "x", "level", {"small": 0.25, "large": 0.75})
    assert estimate(rows, told).value == pytest.approx(0.25 / 2 + 0.75 * 2 / 5)
    assert estimate(rows, "x").value == pytest.approx(3 / 7)
    assert estimate(rows, GroupedMean("m", "x", "level", {"small": 1.0})).value == 0.5
    missing = estimate(rows, GroupedMean("m", "x", "level", {"small": 0.5, "huge": 0.5}))
    assert (missing.value, missing.n) == (None, 0)
    assert estimate([], GroupedMean("m", "x", "level")).n == 0


def test_rows_of_one_cluster_are_resampled_together() -> None:
    rows = [
        {"id": f"{question}-{place}", "trial": 0, "cluster": question, "level": "a", "x": float(question % 2)}
        for question in range(10)
        for place in range(20)
    ]
    apart = [{key: value for key, value in row.items() if key != "cluster"} for row in rows]
    for metric in ("x", GroupedMean("m", "x", "level")):
        together, alone = estimate(rows, metric), estimate(apart, metric)
        assert (together.n, alone.n) == (10, 200)
        assert together.high - together.low > 3 * (alone.high - alone.low)
    assert smallest_resolvable_difference(rows, "x") > 3 * smallest_resolvable_difference(apart, "x")


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("ab"), st.floats(0, 1)), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_mean_of_groups_has_an_interval_with_a_width_that_contains_it(found: list[tuple[int, str, float]]) -> None:
    rows = [
        {"id": str(place), "trial": 0, "cluster": f"q{question}", "level": level, "x": value}
        for place, (question, level, value) in enumerate(found)
    ]
    mean = estimate(rows, GroupedMean("m", "x", "level"))
    assert mean.value is not None and mean.low is not None and mean.high is not None
    assert -1e-9 <= mean.low <= mean.value + 1e-9 and mean.value - 1e-9 <= mean.high <= 1 + 1e-9
    assert mean.high - mean.low > 0.01


def test_a_cost_without_any_spread_has_a_value_and_no_interval() -> None:
    """Two cases of 7 calls give no information on the next case; a share of 1.0 does, since no share exceeds 1."""
    for column in ("turns", "calls", "completion_tokens"):
        assert estimate(rows_of([1, 1, 1], column), column) == Estimate(1.0, None, None, 3)
    mean = GroupedMean("turns", "turns", "level")
    rows = [{"id": str(i), "level": "ab"[i % 2], "turns": 2 + i % 2} for i in range(8)]
    assert estimate([row | {"turns": 2} for row in rows], mean) == Estimate(2.0, None, None, 8)
    assert estimate(rows_of([7], "calls"), "calls") == Estimate(7.0, None, None, 1)
    summary = summarize("s", "p", rows_of([1, 1], "calls"), ["calls"])
    assert "100.0 [n/a]" in table_text({"all": summary["metrics"]}, ["calls"])


def test_partial_mean_is_in_the_summary_with_its_groups() -> None:
    rows = level_rows()
    told = GroupedMean("told", "x", "level", {"small": 0.2, "large": 0.3, "huge": 0.5})
    plain = GroupedMean("plain", "x", "level", of=("small", "large"))
    summary = summarize("s", "p", rows, [told, plain])
    assert summary["metrics"]["told"]["value"] is None and set(summary["partial"]) == {"told"}
    part = summary["partial"]["told"]
    assert part["value"] == pytest.approx(0.4 / 2 + 0.6 * 3 / 6)
    assert (part["groups"], part["of"]) == (["small", "large"], ["small", "large", "huge"])
    small = summarize("s", "p", [row for row in rows if row["level"] == "small"], [plain])
    assert small["partial"]["plain"]["groups"] == ["small"]


def test_summary_says_which_metrics_are_means_of_groups(tmp_path) -> None:
    summary = summarize("s", "p", level_rows(), ["x", GroupedMean("m", "x", "level")], groups={"by_level": "level"})
    assert summary["grouped_means"] == [{"name": "m", "column": "x", "group": "level", "weights": None}]
    assert set(summary["metrics"]) == {"x", "m"} == set(summary["by_level"]["large"])
    assert json.loads(write_summary(tmp_path, summary).read_text()) == summary
