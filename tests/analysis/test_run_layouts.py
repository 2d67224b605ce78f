"""Complete runs with several models, modes and algorithms and synthetic results: roles define all pairs and names."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from analysis import main_table, results_table, scenario_breakdown, thinking_modes
from analysis.all import SCRIPTS, make_all
from analysis.report import render
from analysis.restore_elements import folder_name as elements_folder
from analysis.restore_layers import folder_name
from analysis.run_data.claims import claims
from analysis.run_data.intervals import paired_difference
from analysis.run_data.labels import model_label
from analysis.run_data.run_folder import Run
from env_construction.environment.jsonl import write_jsonl
from train.experiments import experiment
from train.pipeline import Pipeline
from train.stages.policy_roles import Role, read_roles, start_role, trained_role, write_roles
from train.stages.profiles import parse_options

pytestmark = pytest.mark.integration  # every table, figure and page of complete runs
SOURCES = {
    "floor": "random",
    "ceiling": "oracle",
    "start": "start",
    "ablation": "grpo-solve-pr",
    "control": "grpo-shuffled",
}


def copy_results(synthetic_run: Path, run: Path, name: str, role: Role) -> None:
    """Copy the results of the policy's role from the synthetic run.

    The start of a small model plays at random, so that pairing with the start of another model would change the
    numbers.
    """
    source = SOURCES.get(role.role, role.algorithm)
    if role.role == "start" and role.model in ("qwen2.5-7b", "tiny"):
        source = "random"
    if role.mode == "thinking" and role.role == "trained":
        source = "grpo-solve-pr"
    shutil.copytree(synthetic_run / "eval" / source, run / "eval" / name)
    if role.role in ("trained", "ablation"):
        shutil.copytree(synthetic_run / "train" / "grpo", run / "train" / name)
        if role.mode == "thinking" or role.algorithm != "grpo":  # replaying all of them would take minutes
            for path in (run / "train" / name).glob("epoch*/trajectories.jsonl"):
                path.unlink()


def write_general(run: Path, name: str, tasks: tuple[str, ...], lost: int) -> None:
    folder = run / "eval" / name / "general"
    rows = [
        {"id": f"{task}-{i}", "task": task, "trial": 0, "correct": int(i % 2 == 0 and i >= lost)}
        for task in tasks
        for i in range(60)
    ]
    write_jsonl(folder / "results.jsonl", rows)
    (folder / "summary.json").write_text("{}")


def write_mixtures(synthetic_run: Path, run: Path, name: str) -> None:
    for folder in (
        folder_name("only", "lower MLP"),
        folder_name("only", "rest"),
        elements_folder("top", 20),
        elements_folder("random", 20),
    ):
        target = run / "restore" / name / folder
        rows = synthetic_run / "eval" / ("grpo" if folder.startswith("only-lower") else "start") / "results.jsonl"
        target.mkdir(parents=True)
        shutil.copy(rows, target)
        counts = {"elements": 100, "put_back": 20, "put_back_changed": 20, "lower_mlp": 30, "put_back_lower_mlp": 12}
        (target / "elements.json").write_text(json.dumps(counts))
        (target / "configuration.json").write_text(json.dumps({"lower_layers": 3} if folder.startswith("only") else {}))


def fill(synthetic_run: Path, run: Path, tasks: tuple[str, ...]) -> Run:
    """Write all files that a run with these roles can have."""
    shutil.copytree(synthetic_run / "environments", run / "environments")
    for name, role in read_roles(run).items():
        copy_results(synthetic_run, run, name, role)
        if role.role in ("start", "trained"):
            write_general(run, name, tasks, lost=0 if role.role == "start" else 2)
    write_mixtures(synthetic_run, run, next(name for name, role in read_roles(run).items() if role.role == "trained"))
    return Run.open(run)


@pytest.fixture(scope="module")
def paper(synthetic_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that `bash run_all.sh --profile paper --dry-run` describes, with the roles that the pipeline writes."""
    folder = tmp_path_factory.mktemp("paper")
    cache = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Pipeline(parse_options("Example: bash run_all.sh", ["--profile=paper"])).prepare()
        for name in ("Qwen2.5-7B-Instruct", "Qwen2.5-14B-Instruct", "Qwen3-8B", "Qwen3-14B"):
            kept = cache / f"models--Qwen--{name}"
            shutil.copytree(synthetic_run / "start", kept / "snapshots" / "abc")
            (kept / "refs").mkdir()
            (kept / "refs" / "main").write_text("abc")
        run = fill(synthetic_run, folder / "outputs" / "paper", ("mmlu", "bbh", "gsm8k", "math", "humaneval", "mbpp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        make_all(run, run.path / "analysis")
    return run


def small_roles() -> dict[str, Role]:
    """The cpu profile with two sizes, two modes, both algorithms, the four rewards, a second seed and controls."""
    roles = {"random": Role("floor"), "oracle": Role("ceiling")}
    ablations = ("-solve-recall", "-solve-precision", "-solve-pr", "-shuffled")
    for model in ("tiny", "mini"):
        for mode in ("plain", "thinking"):
            start = f"{model}-{mode}"
            for algorithm in ("grpo", "reinforce++"):
                row = experiment(f"tiny-plain-{algorithm}")
                row = replace(
                    row, model=replace(row.model, name=model), thinking=mode == "thinking", name=f"{start}-{algorithm}"
                )
                roles[start] = start_role(row, f"outputs/cpu/{model}")
                roles[row.name] = trained_role(row, start, "", 0)
                if (model, mode) == ("tiny", "plain"):
                    roles[f"{row.name}-seed1"] = trained_role(row, start, "", 1)
                    for ablation in ablations:
                        roles[row.name + ablation] = trained_role(experiment(row.name + ablation), start, "", 0)
    roles["more-supervised"] = Role("control", "tiny", "plain", "", "tiny-plain", control="more-supervised")
    return roles


@pytest.fixture(scope="module")
def small(synthetic_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("small") / "outputs" / "cpu"
    folder.mkdir(parents=True)
    write_roles(folder, small_roles())
    for model in ("tiny", "mini"):
        shutil.copytree(synthetic_run / "start", folder / model)
    run = fill(synthetic_run, folder, ("lookup", "tracking", "word_problems", "expressions", "completion", "functions"))
    make_all(run, run.path / "analysis")
    return run


@pytest.fixture(scope="module", autouse=True)
def one_format() -> Iterator[None]:
    """Write figures only as SVG, which the page needs, and spare the search for a layout without overlaps: most of the
    time goes there. test_report.py writes complete figures.
    """

    def save_svg(figure: Figure, stem: Path) -> list[Path]:
        path = stem.with_name(f"{stem.name}.svg")
        figure.set_layout_engine("none")
        figure.savefig(path)
        return [path]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.figures.artifact.save_figure", save_svg)
        yield


def index_of(run: Run) -> dict[str, list[dict[str, Any]]]:
    return json.loads((run.path / "analysis" / "index.json").read_text())


def test_all_analyses_of_the_paper_layout_are_written(paper: Run) -> None:
    index = index_of(paper)
    made = {entry["script"] for entry in index["made"]}
    # The paper's twelve runs have neither other rewards nor other seeds.
    assert made == set(SCRIPTS) - {"training_seeds", "reward_ablation"} and index["missing"] == []
    assert {entry["script"] for entry in index["not_planned"]} == {"training_seeds", "reward_ablation"}
    deltas = {entry["name"] for entry in index["made"] if re.match(r"parameter_deltas_", entry["name"])}
    assert len(deltas) == 12


def test_all_analyses_of_the_small_layout_are_written(small: Run) -> None:
    index = index_of(small)
    assert {entry["script"] for entry in index["made"]} == set(SCRIPTS) - {"main_table"}
    assert index["missing"] == [] and [entry["script"] for entry in index["not_planned"]] == ["main_table"]


@pytest.mark.parametrize("layout", ["paper", "small"])
def test_each_policy_is_paired_with_the_start_of_its_model_and_mode(
    layout: str, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(layout)
    rows = [row for row in results_table.table_rows(run) if row["scope"] == "all"]
    paired = [row for row in rows if row["start"]]
    assert len(paired) == sum(bool(role.start) for role in run.roles.values()) >= 12
    for row in paired:
        role, start = run.roles[row["policy"]], run.roles[row["start"]]
        assert (start.role, start.model, start.mode) == ("start", role.model, role.mode)
        for metric in ("solve_f1", "answer_correct", "solve_p", "solve_r", "calls"):
            wanted = paired_difference(run.rows(row["policy"]), run.rows(row["start"]), metric)
            assert row[f"{metric}_minus_start"] == wanted.value
    gains = {
        run.roles[row["policy"]].model: row["solve_f1_minus_start"]
        for row in paired
        if run.roles[row["policy"]].role == "trained"
    }
    assert len(set(gains.values())) > 1, "the models have other starts, and so other gains"
    for row in scenario_breakdown.build(run)[0].rows:
        assert row["policy"] == row["start"] or run.roles[row["policy"]].start == row["start"]


@pytest.mark.parametrize("layout", ["paper", "small"])
def test_no_label_has_another_models_name(layout: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(layout)
    labels = [run.label(policy) for policy in run.policies]
    assert len(labels) == len(set(labels))
    for policy, label in zip(run.policies, labels, strict=True):
        named = {
            model for model in run.models if re.search(rf"(?<![\w.-]){re.escape(model_label(model))}(?![\w.-])", label)
        }
        assert named == ({run.roles[policy].model} if run.roles[policy].model else set()), label


def test_thinking_pairs_untrained_with_untrained_and_trained_with_trained(paper: Run, small: Run) -> None:
    for run, count in ((paper, 6), (small, 6)):
        pairs = thinking_modes.mode_pairs(run)
        assert len(pairs) == count
        for plain, thinking in pairs:
            assert replace(run.roles[thinking], mode="plain", policy="", start="", experiment="") == replace(
                run.roles[plain], policy="", start="", experiment=""
            )
        rows = [row for row in thinking_modes.build(run)[0].rows if row["scope"] == "all"]
        assert [row["trained"] for row in rows].count(False) == 2
        for row in rows:
            wanted = paired_difference(run.rows(row["thinking_policy"]), run.rows(row["policy"]), "solve_f1")
            assert (row["solve_f1_thinking_minus_plain"], row["solve_f1_thinking_minus_plain_n"]) == (wanted.value, 24)


def test_no_difference_to_the_paper_on_other_environments(paper: Run) -> None:
    (artifact,) = main_table.build(paper)
    assert not any("_minus_paper" in key for row in artifact.rows for key in row)
    mine = [row for row in artifact.rows if row["source"] != "paper"]
    assert len(mine) == 18 and {row["model"] for row in mine} >= {
        "Qwen3-8B, plain",
        "Qwen3-8B, thinking",
        "Qwen2.5-7B-Instruct",
    }


def test_claims_of_the_paper_layout_have_their_scope(paper: Run) -> None:
    found = {claim.number: claim for claim in claims(paper, paper.path / "analysis")}
    assert {number for number, claim in found.items() if claim.verdict == "not tested"} == {2}
    assert all("small scale" not in claim.scope for claim in found.values())
    assert "Qwen3-8B, thinking: GRPO − start" in found[3].evidence and found[3].evidence.count("− start:") == 12
    assert "benchmarks" in found[4].evidence and found[4].evidence.count("margin") == 12
    assert (
        "untrained and trained, same cases, paired" in found[6].scope
        and found[6].evidence.count("thinking − plain") == 6
    )


def test_claims_of_the_small_layout_are_limited_to_small_scale(small: Run) -> None:
    found = {claim.number: claim for claim in claims(small, small.path / "analysis")}
    assert all(claim.verdict != "not tested" for claim in found.values())
    assert all("at small scale (" in found[number].scope for number in range(2, 7))
    assert found[2].evidence.count("with the Solve-F1 reward −") == 6  # three other rewards of both algorithms
    assert "control tiny, plain: More supervised steps − start" in found[3].evidence and "seeds each" in found[3].scope
    assert "made skills" in found[4].evidence and "made skills" in found[4].scope
    assert "restoring the top 20% of the weights" in found[5].evidence and "relative norm" in found[5].evidence
    for number in (2, 3):
        assert "answer accuracy" in found[number].evidence and "calls per case" in found[number].evidence


def test_unmeasured_policies_are_missing_and_policies_without_role_are_left_out(
    synthetic_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(synthetic_run, run)
    shutil.rmtree(run / "eval" / "reinforce++")
    shutil.copytree(run / "eval" / "grpo", run / "eval" / "grpo-old")
    index = make_all(Run.open(run), run / "analysis", ("results_table",))
    assert {entry["script"]: entry["reason"] for entry in index["missing"]} == {
        "eval/reinforce++": "no results on the test environments",
        "grpo-old": "policies.json does not define its role, so it is left out",
    }
    assert "grpo-old" not in {row["policy"] for row in results_table.table_rows(Run.open(run))}


def test_pages_of_both_layouts_name_all_policies(paper: Run, small: Run) -> None:
    for run in (paper, small):
        page = render(run, run.path / "analysis")
        assert all(run.label(policy) in page.replace("&#43;", "+") for policy in run.policies)
