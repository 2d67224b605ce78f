"""The tables of a run hold what its result files hold: means, intervals, pairing, splits, and the paper's own numbers."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from analysis import (
    compare_runs,
    failure_modes,
    main_table,
    results_table,
    reward_ablation,
    scenario_breakdown,
    training_curves,
)
from analysis.figures.style import policy_style
from analysis.run_data.intervals import estimate_text, paired_difference, statistics_of_totals
from analysis.run_data.run_folder import Missing, Run, policy_label
from env_construction.environment.jsonl import BadInput, write_jsonl
from eval.statistics.estimates import Estimate, holm
from eval.statistics.intervals import bootstrap_p
from eval.suites.results import write_summary


@pytest.fixture(scope="module")
def run(made_run: Path) -> Run:
    return Run.open(made_run)


def test_results_table_agrees_with_every_summary(run: Run) -> None:
    rows = {(row["policy"], row["scope"]): row for row in results_table.table_rows(run)}
    for policy in run.policies:
        summary = run.summary(policy)
        for metric in ("solve_p", "solve_r", "solve_f1", "format_rate", "argument_rate"):
            wanted = summary["metrics"][metric]
            row = rows[policy, "all"]
            assert (row[metric], row[f"{metric}_low"], row[f"{metric}_n"]) == (
                wanted["value"],
                wanted["low"],
                wanted["n"],
            )
        for scenario, metrics in summary["by_scenario"].items():
            assert rows[policy, scenario]["solve_f1"] == metrics["solve_f1"]["value"]


def test_oracle_is_exactly_one_and_policies_stand_in_reading_order(run: Run) -> None:
    rows = [row for row in results_table.table_rows(run) if row["scope"] == "all"]
    names = [row["policy"] for row in rows]
    assert names[:5] == ["random", "start", "more-supervised", "grpo", "reinforce++"] and names[-1] == "oracle"
    assert rows[-1]["solve_f1"] == rows[-1]["solve_f1_high"] == 1.0
    assert rows[-1]["solve_f1_low"] == pytest.approx(24 / (24 + norm.ppf(0.975) ** 2))  # Wilson's for 24 of 24


def test_paired_difference_is_that_of_the_means_on_shared_cases(run: Run) -> None:
    row = next(row for row in results_table.table_rows(run) if (row["policy"], row["scope"]) == ("grpo", "all"))
    start = run.summary("start")["metrics"]["solve_f1"]["value"]
    assert row["solve_f1_minus_start"] == pytest.approx(row["solve_f1"] - start)
    assert row["solve_f1_minus_start_low"] > 0 and row["solve_f1_p_holm"] < 0.05


def test_holm_correction_never_lowers_a_p_value(run: Run) -> None:
    rows = [row for row in results_table.table_rows(run) if "solve_f1_p" in row]
    assert {row["policy"] for row in rows} == set(run.policies) - {"start", "random", "oracle"}
    assert all(row["solve_f1_p_holm"] >= row["solve_f1_p"] for row in rows)
    family = [row[f"{metric}_p"] for row in rows for metric in ("solve_f1", "answer_correct")]
    corrected = [row[f"{metric}_p_holm"] for row in rows for metric in ("solve_f1", "answer_correct")]
    assert corrected == pytest.approx(holm(family))


def test_p_values_at_the_floor_of_resampling_are_printed_as_bounds(run: Run) -> None:
    (table, *_) = results_table.build(run)
    floored = [row for row in table.rows if row.get("solve_f1_p_holm_at_floor")]
    assert floored and all(row["solve_f1_p"] == bootstrap_p(np.ones(10_000), 24) for row in floored)
    for row in floored:
        assert f"| < {row['solve_f1_p_holm']:.4f} |" in table.texts[".md"]


def test_gain_split_adds_up_to_the_difference_that_the_results_table_shows(run: Run) -> None:
    table, split = results_table.build(run)[:2]
    shown = {row["policy"]: row for row in table.rows if row["scope"] == "all"}
    assert split.name == "gain_split" and len(split.rows) >= 4
    for row in split.rows:
        parts = sum(row[name] for name in ("attempts", "format", "tool", "argument"))
        assert parts == pytest.approx(row["solve_f1_gain"], abs=1e-9)
        for end in ("", "_low", "_high"):
            assert row[f"solve_f1_gain{end}"] == pytest.approx(
                shown[row["policy"]][f"solve_f1_minus_start{end}"], abs=1e-9
            )


def test_caption_states_n_interval_and_source(run: Run) -> None:
    for build in (results_table.build, scenario_breakdown.build, training_curves.build, main_table.build):
        for artifact in build(run):
            assert "Source: " in artifact.caption and "interval" in artifact.caption, artifact.name
            assert "n = 24" in artifact.caption or artifact.name == "training_curves"


def test_faults_are_left_out(made_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(made_run / "eval" / "start", copy / "eval" / "start")
    with (copy / "eval" / "start" / "results.jsonl").open("a") as handle:
        handle.write(json.dumps({"id": "broken", "outcome": "fault", "solve_f1": 0.0}) + "\n")
    assert len(Run.open(copy).rows("start")) == 24


def test_what_a_policy_lost_to_faults_stands_in_the_caption(made_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(made_run, copy)
    (copy / "eval/grpo/faults.jsonl").write_text('{"id": "a", "trial": 0, "fault": "server gone"}\n')
    found = results_table.build(Run.open(copy))[0].caption
    assert "GRPO: 1 of 25 episodes was lost to faults and is not scored (1 x server gone). Random" in found
    assert "lost to faults" not in results_table.build(Run.open(made_run))[0].caption


def test_every_table_says_in_the_same_words_what_was_lost_to_faults_and_warns_of_lost_pairs(
    made_run: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(made_run, copy)
    results = copy / "eval/grpo/results.jsonl"
    first, *rest = results.read_text().splitlines(keepends=True)
    results.write_text("".join(rest))
    lost = {"id": json.loads(first)["id"], "trial": 0, "fault": "server gone"}
    (copy / "eval/grpo/faults.jsonl").write_text(json.dumps(lost) + "\n")
    run = Run.open(copy)
    scripts = (results_table, scenario_breakdown, main_table, failure_modes, reward_ablation)
    for caption in [artifact.caption for script in scripts for artifact in script.build(run)[:1]] + [
        compare_runs.compare([run, Run.open(made_run)]).caption
    ]:
        assert "GRPO: 1 of 24 episodes was lost to faults and is not scored (1 x server gone). " in caption
        assert "Warning: Start lost 0 episodes to faults that GRPO has, and GRPO lost 1 that Start has." in caption


def test_breakdown_pairs_within_each_scenario_and_size(run: Run) -> None:
    artifacts = {artifact.name: artifact for artifact in scenario_breakdown.build(run)}
    rows = artifacts["scenario_breakdown"].rows
    assert len(rows) == 4 * 3 and {row["solve_f1_n"] for row in rows} == {6}
    by_id = {row["id"]: row for row in run.rows("start")}
    for row in (row for row in rows if row["policy"] == "grpo"):
        cases = [case for case in run.rows("grpo") if case["scenario"] == row["group"]]
        gaps = [case["solve_f1"] - by_id[case["id"]]["solve_f1"] for case in cases]
        assert row["solve_f1_minus_start"] == pytest.approx(sum(gaps) / len(gaps))
    assert {row["by"] for row in artifacts["size_breakdown"].rows} == {"hops"}


def test_training_steps_are_numbered_on_over_epochs(run: Run) -> None:
    rows = training_curves.step_rows(run, "grpo")
    assert [row["step"] for row in rows] == list(range(1, 25))
    assert [row["epoch"] for row in rows] == [1] * 12 + [2] * 12


@pytest.mark.parametrize(
    ("row", "names", "value"),
    [
        ({"train/reward": 0.5}, ("reward",), 0.5),
        ({"kl_loss": 0.1, "kl": 0.2}, ("kl", "kl_loss"), 0.2),
        ({"reward": "high"}, ("reward",), None),
        ({"reward": True}, ("reward",), None),
        ({}, ("reward",), None),
    ],
)
def test_log_names_are_found_with_and_without_prefix(
    row: dict[str, Any], names: tuple[str, ...], value: float | None
) -> None:
    assert training_curves.series_value(row, names) == value


def test_average_of_the_papers_table_is_the_mean_of_its_eight_columns() -> None:
    rows = main_table.paper_rows()
    assert len(rows) == 27
    for row in rows:
        assert sum(row[column.key] for column in main_table.COLUMNS) / 8 == pytest.approx(row["avg"], abs=0.0051)


def test_every_trained_row_of_the_paper_has_its_untrained_one() -> None:
    rows = main_table.paper_rows()
    pairs = [(row, main_table.untrained_row(row, rows)) for row in rows if row["version"].startswith("FTRL-")]
    assert len(pairs) == 12
    assert all(before is not None and row["family"].split()[0] == before["family"] for row, before in pairs)
    gains = [row["solve_f1"] - before["solve_f1"] for row, before in pairs if before]
    assert min(gains) > 0


def test_paper_model_gets_its_row_and_a_difference(made_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    for policy in ("start", "grpo"):
        shutil.copytree(made_run / "eval" / policy, copy / "eval" / policy)
    (copy / "configuration.json").write_text(json.dumps({"model": "qwen3-8b", "thinking": False}))
    run = Run.open(copy)
    assert main_table.counterpart(run, "start") == ("Qwen3-8B", "Non-Reasoning")
    assert main_table.counterpart(run, "grpo") == ("Qwen3-8B non-reasoning", "FTRL-GRPO")
    assert main_table.counterpart(run, "qwen2.5-7b-plain-reinforce++") == ("Qwen2.5-7B", "FTRL-Reinforce++")
    assert main_table.counterpart(run, "qwen3-14b-thinking-grpo") == ("Qwen3-14B reasoning", "FTRL-GRPO")
    row = next(row for row in main_table.table_rows(run) if row["version"] == "GRPO")
    assert row["solve_f1_minus_paper"] == pytest.approx(row["solve_f1"] - 49.54)
    assert row["solve_f1_arrow"] == "↑" and row["avg"] is None


def test_tiny_model_gets_no_difference_to_the_paper(run: Run) -> None:
    (artifact,) = main_table.build(run)
    assert not any("_minus_paper" in key for row in artifact.rows for key in row)
    assert "This model is not in the paper" in artifact.caption
    assert artifact.texts[".md"].count("\n") == 2 + 27 + 6
    lines = [line for line in artifact.texts[".tex"].splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in lines} == {10}


def test_written_csv_holds_the_rows(run: Run, tmp_path: Path) -> None:
    artifact = results_table.build(run)[0]
    names = {path.name for path in artifact.write(tmp_path)}
    assert names == {
        "results_table.csv",
        "results_table.md",
        "results_table.png",
        "results_table.svg",
        "results_table.txt",
    }
    with (tmp_path / "results_table.csv").open() as handle:
        found = list(csv.DictReader(handle))
    assert [row["policy"] for row in found] == [row["policy"] for row in artifact.rows]
    assert float(found[3]["solve_f1"]) == pytest.approx(artifact.rows[3]["solve_f1"], rel=1e-5)


def test_figures_are_the_same_bytes_every_time(run: Run, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        scenario_breakdown.build(run)[0].write(tmp_path / folder)
    for suffix in ("svg", "png", "csv"):
        one, other = (tmp_path / folder / f"scenario_breakdown.{suffix}" for folder in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()


def test_a_run_without_results_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    with pytest.raises(Missing, match=r"eval/<policy>/results\.jsonl"):
        results_table.build(Run.open(tmp_path))
    with pytest.raises(Missing, match="eval/start"):
        scenario_breakdown.build(Run.open(tmp_path))
    with pytest.raises(Missing, match=r"train_log\.jsonl"):
        training_curves.build(Run.open(tmp_path))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not the folder of a run"):
        Run.open(tmp_path)
    with pytest.raises(BadInput, match="no such folder"):
        Run.open(tmp_path / "absent")


def test_broken_results_line_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "eval" / "start"
    write_jsonl(folder / "results.jsonl", [{"id": "a", "solve_f1": 1.0}])
    with (folder / "results.jsonl").open("a") as handle:
        handle.write("{broken\n")
    with pytest.raises(BadInput, match=r"results\.jsonl:2"):
        Run.open(tmp_path).rows("start")


@pytest.mark.parametrize(
    ("policy", "label"),
    [
        ("grpo", "GRPO"),
        ("grpo-shuffled", "GRPO, shuffled"),
        ("reinforce++-solve-precision", "REINFORCE++, Solve-P reward"),
        ("reinforce++-baseline", "REINFORCE++, baseline"),
        ("gspo", "gspo"),
    ],
)
def test_policy_names_are_written_out(policy: str, label: str) -> None:
    assert policy_label(policy) == label


def test_estimates_are_printed_with_real_minus_signs() -> None:
    assert estimate_text(Estimate(-0.1234, -0.2, 0.05, 9), signed=True) == "−0.123 [−0.200, +0.050]"
    assert estimate_text(Estimate(None, None, None, 0)) == "n/a"


def test_ratio_of_totals_is_not_the_mean_of_ratios() -> None:
    import numpy as np

    groups = {"a": np.array([100.0, 1.0]), "b": np.array([10.0, 9.0])}
    (found,) = statistics_of_totals(groups, lambda totals: totals[:, :1] / totals[:, 1:])
    assert found.value == pytest.approx(110 / 10)
    assert found.low == pytest.approx(10 / 9) and found.high == pytest.approx(100)


def test_pairing_ignores_cases_that_one_side_lacks() -> None:
    before = [{"id": "a", "x": 0.0}, {"id": "b", "x": 1.0}, {"id": "only", "x": 1.0}]
    after = [{"id": "a", "x": 1.0}, {"id": "b", "x": 1.0}]
    found = paired_difference(after, before, "x")
    assert (found.value, found.n) == (0.5, 2)


def test_table_2_asks_every_suite_for_metrics_that_it_has() -> None:
    for column in main_table.COLUMNS:
        suite = importlib.import_module(f"eval.{column.suite}")
        names = {metric if isinstance(metric, str) else metric.name for metric in suite.METRICS}
        assert column.metric in names, column.label


def test_table_2_holds_the_other_suites_of_a_run(made_run: Path, tmp_path: Path) -> None:
    shutil.copytree(made_run / "eval" / "start", tmp_path / "eval" / "start")
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    for suite in ("toolhop", "tau_bench", "rotbench"):
        names = {column.metric: estimate for column in main_table.COLUMNS if column.suite == suite}
        write_summary(tmp_path / "eval" / "start" / suite, {"metrics": names})
    row = main_table.table_rows(Run.open(tmp_path))[-1]
    assert [row[f"{column.key}_n"] for column in main_table.COLUMNS[3:]] == [10] * 5
    solve = sum(row[column.key] for column in main_table.COLUMNS[:3])
    assert row["avg"] == pytest.approx((solve + 5 * 50.0) / 8)
    (artifact,) = main_table.build(Run.open(tmp_path))
    assert "Not run here" not in artifact.caption
    assert r"50.00 [40.0, 60.0]" in artifact.texts[".tex"]


def test_a_policy_looks_the_same_in_every_figure() -> None:
    assert policy_style("grpo-thinking", 2) == policy_style("grpo-thinking", 7)
    assert policy_style("grpo-thinking")[0] == policy_style("grpo")[0]
    assert policy_style("grpo-thinking")[1:] != policy_style("grpo")[1:]
    assert policy_style("grpo-seed2") == policy_style("grpo")
