"""Repeats of a training with other seeds: how they are told apart, averaged, and kept out of the other figures."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.run_data.claims import claims
from analysis.run_data.intervals import paired_difference
from analysis.run_data.run_folder import NotPlanned, Run
from analysis.training_seeds import build, interval_over_seeds
from env_construction.environment.jsonl import read_jsonl, write_jsonl
from train.stages.policy_roles import read_roles, write_roles


@pytest.fixture
def repeated(made_run: Path, tmp_path: Path) -> Run:
    """The made-up run, where GRPO was trained with three seeds: the second does nothing, the third is the first
    again.
    """
    run = tmp_path / "repeated"
    shutil.copytree(made_run, run)
    for source, name in (("start", "grpo-seed1"), ("grpo", "grpo-seed2")):
        shutil.copytree(run / "eval" / source, run / "eval" / name)
        write_roles(run, {name: replace(read_roles(run)["grpo"], seed=int(name[-1]), content="", policy="")})
    return Run.open(run)


def test_repeats_are_told_by_their_roles_whatever_their_names(repeated: Run) -> None:
    roles = read_roles(repeated.path)
    (repeated.path / "eval" / "grpo-seed2").rename(repeated.path / "eval" / "again")
    (repeated.path / "policies.json").unlink()
    write_roles(repeated.path, {"again" if name == "grpo-seed2" else name: role for name, role in roles.items()})
    assert Run.open(repeated.path).training_seeds()["grpo"] == {0: "grpo", 1: "grpo-seed1", 2: "again"}


def test_the_mean_over_seeds_is_the_mean_of_their_differences(repeated: Run) -> None:
    (artifact,) = build(repeated)
    mine = [row for row in artifact.rows if row["policy"] == "grpo"]
    assert [row["seed"] for row in mine] == [0, 1, 2, "mean"]
    gain = paired_difference(repeated.rows("grpo"), repeated.rows("start"), "solve_f1").value
    assert gain is not None and gain > 0
    assert [row["solve_f1_minus_start"] for row in mine] == pytest.approx([gain, 0.0, gain, 2 * gain / 3])
    assert mine[-1]["solve_f1_minus_start_over_seeds_n"] == 3
    assert mine[-1]["solve_f1_minus_start_over_seeds_low"] < 0 < mine[-1]["solve_f1_minus_start_low"]
    assert {row["policy"] for row in artifact.rows} == {"grpo"}, "a policy with one seed has no spread to show"


def test_the_interval_over_seeds_is_students() -> None:
    found = interval_over_seeds([0.1, 0.2, 0.3])
    reach = 4.302652729911275 * 0.1 / math.sqrt(3)
    assert (found.value, found.low, found.high, found.n) == pytest.approx((0.2, 0.2 - reach, 0.2 + reach, 3))
    assert interval_over_seeds([0.1]).value is None


def test_repeats_stay_out_of_the_figures_of_the_main_comparison(repeated: Run) -> None:
    assert repeated.compared() == {"start": ["grpo", "reinforce++"]}
    assert repeated.training_seeds()["grpo"] == {0: "grpo", 1: "grpo-seed1", 2: "grpo-seed2"}


def test_the_verdict_takes_all_seeds_together(repeated: Run, tmp_path: Path) -> None:
    """With a third seed that undoes the gain, the mean difference over the seeds is what the claim shows."""
    gain = paired_difference(repeated.rows("grpo"), repeated.rows("start"), "solve_f1").value
    evidence = claims(repeated, tmp_path)[2].evidence
    assert gain is not None and f"GRPO − start: +{2 * gain / 3:.3f}" in evidence


def test_without_a_repeat_the_reason_is_given(made_run: Path) -> None:
    with pytest.raises(NotPlanned, match="train-seed"):
        build(Run.open(made_run))


def test_a_seed_that_lacks_a_case_is_averaged_over_the_others(repeated: Run) -> None:
    file = repeated.path / "eval" / "grpo-seed1" / "results.jsonl"
    write_jsonl(file, [row for _, row in read_jsonl(file)][1:])
    (artifact,) = build(Run.open(repeated.path))
    assert artifact.rows[-1]["solve_f1_minus_start_n"] == 24
