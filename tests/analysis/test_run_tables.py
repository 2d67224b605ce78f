"""The tables of a run agree with its result files: means, intervals, pairing, splits, and the paper's numbers."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import (
    compare_runs,
    failure_modes,
    main_table,
    results_table,
    reward_ablation,
    scenario_breakdown,
    training_curves,
)
from analysis.figures.style import role_style
from analysis.run_data.intervals import estimate_text, paired_difference, statistics_of_totals
from analysis.run_data.labels import method_label, policy_label
from analysis.run_data.run_folder import Missing, NotPlanned, Run
from env_construction.environment.jsonl import BadInput, write_jsonl
from eval.statistics.estimates import Estimate, holm
from eval.statistics.intervals import bootstrap_p
from eval.suites.results import write_summary
from train.experiments import experiment
from train.stages.policy_roles import Role, trained_role, write_roles


@pytest.fixture(scope="module")
def run(synthetic_run: Path) -> Run:
    return Run.open(synthetic_run)


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


def test_oracle_is_exactly_one_and_policies_are_in_reading_order(run: Run) -> None:
    rows = [row for row in results_table.table_rows(run) if row["scope"] == "all"]
    names = [row["policy"] for row in rows]
    assert names[:5] == ["random", "start", "more-supervised", "grpo", "reinforce++"] and names[-1] == "oracle"
    assert rows[-1]["solve_f1"] == rows[-1]["solve_f1_high"] == 1.0
    assert 0.8 < rows[-1]["solve_f1_low"] < 1.0, "24 cases without a failure do not prove that no case fails"


def test_paired_difference_is_the_difference_of_means_on_shared_cases(run: Run) -> None:
    row = next(row for row in results_table.table_rows(run) if (row["policy"], row["scope"]) == ("grpo", "all"))
    start = run.summary("start")["metrics"]["solve_f1"]["value"]
    assert row["solve_f1_minus_start"] == pytest.approx(row["solve_f1"] - start)
    assert row["solve_f1_minus_start_low"] > 0 and row["solve_f1_p_holm"] < 0.05


def test_holm_correction_never_lowers_a_p_value(run: Run) -> None:
    rows = [row for row in results_table.table_rows(run) if "solve_f1_p" in row]
    assert {row["policy"] for row in rows} == set(run.policies) - {"random", "start", "oracle"}
    assert all(row["solve_f1_p_holm"] >= row["solve_f1_p"] for row in rows)
    family = [row[f"{metric}_p"] for row in rows for metric in ("solve_f1", "answer_correct")]
    corrected = [row[f"{metric}_p_holm"] for row in rows for metric in ("solve_f1", "answer_correct")]
    assert corrected == pytest.approx(holm(family))


def test_p_values_at_the_resampling_floor_are_printed_as_bounds(run: Run) -> None:
    (table, *_) = results_table.build(run)
    floored = [row for row in table.rows if row.get("solve_f1_p_holm_at_floor")]
    assert floored and all(row["solve_f1_p"] == bootstrap_p(np.ones(10_000), 24) for row in floored)
    for row in floored:
        assert f"| < {row['solve_f1_p_holm']:.4f} |" in table.texts[".md"]


def test_gain_split_adds_up_to_the_difference_in_the_results_table(run: Run) -> None:
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
    for build in (results_table.build, scenario_breakdown.build, training_curves.build):
        for artifact in build(run):
            assert "Source: " in artifact.note and "interval" in artifact.note.lower(), artifact.name
            assert "n = 24" in artifact.caption or artifact.name == "training_curves"


def test_faults_are_left_out(synthetic_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(synthetic_run / "eval" / "start", copy / "eval" / "start")
    shutil.copy(synthetic_run / "policies.json", copy)
    with (copy / "eval" / "start" / "results.jsonl").open("a") as handle:
        handle.write(json.dumps({"id": "broken", "outcome": "fault", "solve_f1": 0.0}) + "\n")
    assert len(Run.open(copy).rows("start")) == 24


def test_note_reports_what_a_policy_lost_to_faults(synthetic_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(synthetic_run, copy)
    (copy / "eval/grpo/faults.jsonl").write_text('{"id": "a", "trial": 0, "fault": "server gone"}\n')
    found = results_table.build(Run.open(copy))[0].note
    assert "GRPO: 1 of 25 episodes was lost to faults and is not scored (1 x server gone)." in found
    assert "lost to faults" not in results_table.build(Run.open(synthetic_run))[0].note


def test_every_table_reports_losses_to_faults_alike_and_warns_of_lost_pairs(
    synthetic_run: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(synthetic_run, copy)
    results = copy / "eval/grpo/results.jsonl"
    first, *rest = results.read_text().splitlines(keepends=True)
    results.write_text("".join(rest))
    lost = {"id": json.loads(first)["id"], "trial": 0, "fault": "server gone"}
    (copy / "eval/grpo/faults.jsonl").write_text(json.dumps(lost) + "\n")
    run = Run.open(copy)
    scripts = (results_table, scenario_breakdown, failure_modes, reward_ablation)
    for note in [artifact.note for script in scripts for artifact in script.build(run)[:1]] + [
        compare_runs.compare([run, Run.open(synthetic_run)]).note
    ]:
        assert "GRPO: 1 of 24 episodes was lost to faults and is not scored (1 x server gone). " in note
        assert (
            "Warning: Start lost 0 episodes to faults that GRPO completed, and GRPO lost 1 that Start completed."
            in note
        )


def test_breakdown_pairs_within_each_scenario_and_size(run: Run) -> None:
    artifacts = {artifact.name: artifact for artifact in scenario_breakdown.build(run)}
    rows = artifacts["scenario_breakdown"].rows
    assert len(rows) == 4 * 3 and {row["solve_f1_n"] for row in rows} == {6}
    by_id = {row["id"]: row for row in run.rows("start")}
    for row in (row for row in rows if row["policy"] == "grpo"):
        cases = [case for case in run.rows("grpo") if case["scenario"] == row["group"]]
        gaps = [case["solve_f1"] - by_id[case["id"]]["solve_f1"] for case in cases]
        assert row["solve_f1_minus_start"] == pytest.approx(sum(gaps) / len(gaps))
    assert "size_tools" not in artifacts, "all environments offer the same number of tools"
    assert {row["by"] for row in artifacts["size_sub_questions"].rows} == {"sub-questions"}


def test_training_steps_are_numbered_across_epochs(run: Run) -> None:
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


def test_every_trained_row_of_the_paper_has_an_untrained_row() -> None:
    rows = main_table.paper_rows()
    pairs = [(row, main_table.untrained_row(row, rows)) for row in rows if row["version"].startswith("FTRL-")]
    assert len(pairs) == 12
    assert all(before is not None and row["family"].split()[0] == before["family"] for row, before in pairs)
    gains = [row["solve_f1"] - before["solve_f1"] for row, before in pairs if before]
    assert min(gains) > 0


PAPER_START = Role("start", "qwen3-8b", "plain", "Qwen/Qwen3-8B")


def paper_run(synthetic_run: Path, folder: Path, data: str) -> Run:
    """A run of one of the paper's models, with the results of the synthetic run."""
    for policy in ("start", "grpo"):
        shutil.copytree(synthetic_run / "eval" / policy, folder / "eval" / policy)
    roles = {"start": PAPER_START, "grpo": trained_role(experiment("qwen3-8b-plain-grpo"), "start", "", 0)}
    write_roles(folder, roles)
    (folder / "configuration.json").write_text(json.dumps({"data": data}))
    return Run.open(folder)


@pytest.mark.parametrize(
    ("model", "mode", "start", "trained"),
    [
        ("qwen3-8b", "plain", ("Qwen3-8B", "Non-Reasoning"), ("Qwen3-8B non-reasoning", "FTRL-GRPO")),
        ("qwen3-14b", "thinking", ("Qwen3-14B", "Reasoning"), ("Qwen3-14B reasoning", "FTRL-GRPO")),
        ("qwen2.5-7b", "plain", ("Qwen2.5-7B", "Instruct"), ("Qwen2.5-7B", "FTRL-GRPO")),
        ("tiny", "plain", None, None),
    ],
)
def test_a_policy_matches_the_papers_row_of_its_model_and_mode(
    tmp_path: Path, model: str, mode: str, start: tuple[str, str] | None, trained: tuple[str, str] | None
) -> None:
    roles = {"s": Role("start", model, mode), "t": Role("trained", model, mode, start="s", algorithm="grpo")}
    roles |= {"a": Role("ablation", model, mode, start="s", algorithm="grpo", variant="solve_pr")}
    (tmp_path / "eval").mkdir()
    write_roles(tmp_path, roles)
    run = Run.open(tmp_path)
    assert [main_table.counterpart(run, name) for name in "sta"] == [start, trained, None]


def test_only_the_papers_environments_have_a_difference_to_the_paper(synthetic_run: Path, tmp_path: Path) -> None:
    published = main_table.table_rows(paper_run(synthetic_run, tmp_path / "published", "published"))[-1]
    assert published["version"] == "GRPO" and published["model"] == "Qwen3-8B"
    assert published["solve_f1_minus_paper"] == pytest.approx(published["solve_f1"] - 49.54)
    assert published["solve_f1_arrow"] == "↑" and published["avg"] is None
    run = paper_run(synthetic_run, tmp_path / "built", "built")
    (artifact,) = main_table.build(run)
    assert not any("_minus_paper" in key for row in artifact.rows for key in row)
    assert "No number here is comparable with the paper's" in artifact.note
    lines = [line for line in artifact.texts[".tex"].splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in lines} == {10}


def test_a_tiny_model_is_not_compared_with_the_papers(run: Run) -> None:
    with pytest.raises(NotPlanned, match="no model of the paper"):
        main_table.build(run)


def test_written_csv_holds_the_rows(run: Run, tmp_path: Path) -> None:
    artifact = results_table.build(run)[0]
    names = {path.name for path in artifact.write(tmp_path)}
    assert names == {
        "results_table.csv",
        "results_table.md",
        "results_table.pdf",
        "results_table.png",
        "results_table.svg",
        "results_table.tex",
        "results_table.txt",
    }
    with (tmp_path / "results_table.csv").open() as handle:
        found = list(csv.DictReader(handle))
    assert [row["policy"] for row in found] == [row["policy"] for row in artifact.rows]
    assert float(found[3]["solve_f1"]) == pytest.approx(artifact.rows[3]["solve_f1"], rel=1e-5)


def test_figures_are_reproducible_byte_for_byte(run: Run, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        scenario_breakdown.build(run)[0].write(tmp_path / folder)
    for suffix in ("svg", "png", "csv"):
        one, other = (tmp_path / folder / f"scenario_breakdown.{suffix}" for folder in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()


def test_a_run_without_results_says_what_is_missing(synthetic_run: Path, tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    shutil.copy(synthetic_run / "policies.json", tmp_path)
    with pytest.raises(Missing, match=r"eval/<policy>/results\.jsonl"):
        results_table.build(Run.open(tmp_path))
    with pytest.raises(Missing, match="no trained policy was evaluated together with its start"):
        scenario_breakdown.build(Run.open(tmp_path))
    with pytest.raises(Missing, match=r"train_log\.jsonl"):
        training_curves.build(Run.open(tmp_path))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not the folder of a run"):
        Run.open(tmp_path)
    with pytest.raises(BadInput, match="no such folder"):
        Run.open(tmp_path / "absent")


def test_broken_results_line_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "eval" / "start"
    write_jsonl(folder / "results.jsonl", [{"id": "a", "solve_f1": 1.0}])
    write_roles(tmp_path, {"start": Role("start", "tiny", "plain")})
    with (folder / "results.jsonl").open("a") as handle:
        handle.write("{broken\n")
    with pytest.raises(BadInput, match=r"results\.jsonl:2"):
        Run.open(tmp_path).rows("start")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("tiny-plain-grpo", "GRPO"),
        ("tiny-plain-grpo-shuffled", "GRPO, shuffled rewards"),
        ("tiny-plain-reinforce++-solve-precision", "REINFORCE++, Solve-P reward"),
        ("tiny-plain-reinforce++-baseline", "REINFORCE++ with baseline"),
        ("tiny-plain-grpo-solve-pr-strict", "GRPO, Solve-PR reward, strict matching"),
        ("tiny-plain-grpo-no-toolset-extension", "GRPO, without toolset extension"),
    ],
)
def test_labels_state_how_a_policy_was_trained(name: str, label: str) -> None:
    assert method_label(trained_role(experiment(name), "start", "", 0)) == label
    assert method_label(trained_role(experiment(name), "start", "", 3)) == f"{label}, seed 3"


def test_labels_name_model_and_mode_if_a_run_has_several() -> None:
    roles = {
        name: Role("start", model, mode)
        for name, model, mode in (("a", "qwen3-8b", "plain"), ("b", "qwen3-8b", "thinking"))
    }
    assert policy_label(roles["b"], roles) == "thinking: Start"
    roles["c"] = Role("start", "qwen2.5-7b", "plain")
    assert policy_label(roles["b"], roles) == "Qwen3-8B, thinking: Start"
    assert policy_label(roles["c"], roles) == "Qwen2.5-7B-Instruct: Start"


def test_estimates_are_printed_with_real_minus_signs() -> None:
    assert estimate_text(Estimate(-0.1234, -0.2, 0.05, 9), signed=True) == "−0.123 [−0.200, +0.050]"
    assert estimate_text(Estimate(None, None, None, 0)) == "n/a"


def test_ratio_of_totals_is_not_the_mean_of_ratios() -> None:
    groups = {"a": np.array([100.0, 1.0]), "b": np.array([10.0, 9.0])}
    (found,) = statistics_of_totals(groups, lambda totals: totals[:, :1] / totals[:, 1:])
    assert found.value == pytest.approx(110 / 10)
    assert found.low == pytest.approx(10 / 9) and found.high == pytest.approx(100)


def test_pairing_ignores_cases_that_one_side_lacks() -> None:
    before = [{"id": "a", "x": 0.0}, {"id": "b", "x": 1.0}, {"id": "only", "x": 1.0}]
    after = [{"id": "a", "x": 1.0}, {"id": "b", "x": 1.0}]
    found = paired_difference(after, before, "x")
    assert (found.value, found.n) == (0.5, 2)


def test_every_column_of_table_2_is_a_metric_of_its_suite() -> None:
    for column in main_table.COLUMNS:
        suite = importlib.import_module(f"eval.{column.suite}")
        names = {metric if isinstance(metric, str) else metric.name for metric in suite.METRICS}
        assert column.metric in names, column.label


def test_table_2_includes_the_other_suites_of_a_run(synthetic_run: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic_run / "eval" / "start", tmp_path / "eval" / "start")
    write_roles(tmp_path, {"start": PAPER_START})
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    for suite in ("toolhop", "tau_bench", "rotbench"):
        names = {column.metric: estimate for column in main_table.COLUMNS if column.suite == suite}
        write_summary(tmp_path / "eval" / "start" / suite, {"metrics": names})
    row = main_table.table_rows(Run.open(tmp_path))[-1]
    assert [row[f"{column.key}_n"] for column in main_table.COLUMNS[3:]] == [10] * 5
    solve = sum(row[column.key] for column in main_table.COLUMNS[:3])
    assert row["avg"] == pytest.approx((solve + 5 * 50.0) / 8)
    (artifact,) = main_table.build(Run.open(tmp_path))
    assert "Not measured in this run" not in artifact.note
    assert r"\makecell[r]{50.0" in artifact.texts[".tex"] and "[40.0, 60.0]" in artifact.texts[".tex"]


def test_colors_have_one_meaning() -> None:
    plain, thinking = (
        Role("trained", "a", "plain", algorithm="grpo"),
        Role("trained", "b", "thinking", algorithm="grpo", seed=2),
    )
    assert role_style(plain) == role_style(thinking)
    ablation = Role("ablation", "a", "plain", algorithm="grpo", variant="solve_pr")
    assert role_style(ablation)[0] == role_style(plain)[0] and role_style(ablation)[1:] != role_style(plain)[1:]
    kinds = [
        Role("floor"), Role("ceiling"), Role("start"), plain, Role("trained", algorithm="reinforce++"),
        Role("control", control="more-supervised"), Role("control", algorithm="grpo", control="shuffled"),
    ]  # fmt: skip
    assert len({role_style(role)[0] for role in kinds}) == len(kinds)


def test_a_run_without_roles_explains_in_one_line_how_to_write_them(synthetic_run: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic_run / "eval" / "start", tmp_path / "eval" / "start")
    with pytest.raises(BadInput, match=r"policies\.json: no such file.*--only report.*\"role\": \"start\"") as caught:
        results_table.build(Run.open(tmp_path))
    assert "\n" not in str(caught.value)


def test_results_of_other_weights_are_refused(synthetic_run: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic_run / "eval" / "start", tmp_path / "eval" / "start")
    write_roles(tmp_path, {"start": Role("start", "tiny", "plain", content="a" * 32)})
    configuration = tmp_path / "eval" / "start" / "configuration.json"
    for weights, right in (("a" * 32, True), ("b" * 32, False)):
        configuration.write_text(json.dumps({"policy_content": {"kind": "hf", "weights": weights}}))
        if right:
            assert Run.open(tmp_path).policies == ["start"]
        else:
            with pytest.raises(BadInput, match=r"the results are for weights bbbbbbbbbbbb, but policies\.json says"):
                _ = Run.open(tmp_path).policies
