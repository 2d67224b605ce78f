"""The pipeline behind run_all.sh: valid commands, unique names, no repeated work, reported failures."""

import importlib
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput
from train.experiments import MODELS, SCALES, TINY, experiment
from train.pipeline import Pipeline
from train.stages.commands import CommandFailed
from train.stages.policy_roles import read_roles
from train.stages.profiles import PROFILES, parse_options


class Recorder:
    """Replaces the command runner: records the commands; a command that contains `failing` fails."""

    def __init__(self, failing: str = "") -> None:
        self.commands: list[list[str]] = []
        self.failing = failing

    def run(self, log: str, command: list[str], tag: str = "", environment: Any = None) -> None:
        self.commands.append(list(command))
        if self.failing and any(self.failing in part for part in command):
            raise CommandFailed(shlex.join(command))

    def stop(self) -> None:
        pass

    def modules(self) -> list[str]:
        return [command[2] if command[1] == "-m" else command[0] for command in self.commands]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def play(*arguments: str, failing: str = "") -> tuple[Pipeline, Recorder]:
    pipeline = Pipeline(parse_options("Example: bash run_all.sh", list(arguments)))
    pipeline.runner = recorder = Recorder(failing)  # type: ignore[assignment]
    pipeline.prepare()
    pipeline.run_stages()
    return pipeline, recorder


def folders_of(recorder: Recorder, module: str) -> list[str]:
    return [command[command.index("--out") + 1] for command in recorder.commands if module in command]


CALLS = [
    *([f"--profile={profile}", "--controls"] for profile in sorted(PROFILES)),
    ["--profile=small", "--gpus=0", "--reference=base", "--preset=released", "--nodes=2"],
    ["--experiment=tiny-plain-grpo-episode tiny-plain-grpo-no-toolset-extension"],
    ["--profile=paper", "--data-file=train.jsonl"],
    ["--experiment=smollm2-135m-cpu-plain-grpo"],
    ["--from-scratch", "--train-seed=3"],
]


@pytest.mark.parametrize("arguments", CALLS, ids=" ".join)
def test_every_command_is_accepted_by_its_script(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, recorder = play(*arguments)
    parsed = 0
    for command in recorder.commands:
        module = importlib.import_module(command[2]) if command[1] == "-m" else None
        if module is not None and hasattr(module, "parse_arguments"):
            monkeypatch.setattr(sys, "argv", [command[2], *command[3:]])
            module.parse_arguments()
            parsed += 1
        elif module is not None and hasattr(module, "parser"):
            module.parser().parse_args(command[3:])
            parsed += 1
    assert parsed


def test_sizes_come_from_the_experiments_row() -> None:
    for name in ("smollm2-135m-cpu-plain-grpo", "tiny-plain-grpo"):
        scale = experiment(name).scale
        _, recorder = play(f"--experiment={name}", f"--run={name}")
        [prompts, *_] = [command for command in recorder.commands if "train.rl_prompts" in command]
        assert prompts[prompts.index("--rollout-batch") + 1] == str(scale.rollout_batch)
        assert prompts[prompts.index("--max-prompt-tokens") + 1] == str(scale.max_prompt)
        assert recorder.modules().count("train.run_openrlhf") == scale.epochs


def test_thinking_and_plain_runs_of_one_model_have_their_own_folders() -> None:
    names = ["qwen3-4b-plain-grpo", "qwen3-4b-thinking-grpo", "qwen3-4b-plain-reinforce++"]
    pipeline, recorder = play(f"--experiment={' '.join(names)}")
    assert [pipeline.name_of(training) for training in pipeline.trainings] == ["grpo", "thinking-grpo", "reinforce++"]
    measured = folders_of(recorder, "eval.environments")
    inside = [folder for folder in measured if Path(folder).parent.name == "eval"]
    assert len(measured) == len(set(measured)) and len(inside) == 2 + 2 + 3 + 1
    # floor and ceiling, one start per mode, three trained policies, rejection sampling


def test_downloaded_models_need_separate_runs_outside_the_paper_profile() -> None:
    with pytest.raises(BadInput, match="one model per run"):
        Pipeline(
            parse_options("Example: bash run_all.sh", ["--experiment=qwen3-4b-plain-grpo smollm2-135m-plain-grpo"])
        )
    with pytest.raises(BadInput, match="start from 2 models"):
        Pipeline(
            parse_options("Example: bash run_all.sh", ["--experiment=tiny-plain-grpo mini-plain-grpo", "--model=mine"])
        )


def test_our_own_sizes_share_a_run_under_their_full_names() -> None:
    pipeline, recorder = play("--experiment=tiny-plain-grpo mini-thinking-grpo", "--from-scratch")
    assert [pipeline.name_of(training) for training in pipeline.trainings] == ["tiny-plain-grpo", "mini-thinking-grpo"]
    made = [command for command in recorder.commands if "train.warm_start" in command and "--model" in command]
    assert {(command[command.index("--model") + 1], command[command.index("--out") + 1]) for command in made} == {
        ("tiny", "outputs/cpu/start-tiny"),
        ("mini", "outputs/cpu/start-mini"),
    }


BOTH = "--experiment=tiny-plain-grpo tiny-plain-reinforce++"


def test_a_start_that_is_not_shipped_is_refused_with_the_command_to_create_it(monkeypatch: pytest.MonkeyPatch) -> None:
    unmade = replace(MODELS["tiny"], name="unmade")
    monkeypatch.setitem(MODELS, "unmade", unmade)
    monkeypatch.setitem(SCALES, "unmade", TINY)
    line = ["--experiment=unmade-plain-grpo"]
    with pytest.raises(BadInput, match=r"unmade-plain-grpo: assets/unmade_policy .*train\.warm_start --model unmade"):
        Pipeline(parse_options("Example: bash run_all.sh", line))
    Pipeline(parse_options("Example: bash run_all.sh", [*line, "--from-scratch"]))


def test_a_second_call_repeats_nothing_and_another_seed_trains_again() -> None:
    _, first = play(BOTH, "--train-seed=10")
    assert "train.run_openrlhf" in first.modules()
    _, second = play(BOTH, "--train-seed=10")
    assert second.commands == []
    _, other = play(BOTH, "--train-seed=1")  # 10 begins with 1
    assert other.modules().count("train.run_openrlhf") == 4
    assert "env_construction.build" not in other.modules()
    assert other.modules()[-3:] == ["analysis.all", "analysis.manifest", "analysis.report"]


def test_the_default_run_has_what_each_claim_needs() -> None:
    _, recorder = play()
    roles = read_roles(Path("outputs/cpu"))
    main = {(role.model, role.mode, role.algorithm) for role in roles.values() if role.role == "trained"}
    assert main == {
        ("tiny", mode, algorithm) for mode in ("plain", "thinking") for algorithm in ("grpo", "reinforce++")
    }
    assert {role.variant for role in roles.values() if role.role == "ablation"} == {
        "solve_precision", "solve_recall", "solve_pr",
    }  # fmt: skip
    assert {role.control for role in roles.values() if role.role == "control"} == {
        "more-supervised", "oracle-demonstrations", "rejection-sampling",
    }  # fmt: skip
    measured = [command[command.index("--out") + 1] for command in recorder.commands if "--max-new-tokens" in command]
    for name in ("start", "start-thinking", "grpo", "thinking-reinforce++"):
        for suite in ("", "/unseen_relations", "/next_level", "/disturbed", "/general"):
            assert f"outputs/cpu/eval/{name}{suite}" in measured


def test_the_final_test_environments_have_a_separate_seed() -> None:
    _, recorder = play()
    builds = [command for command in recorder.commands if "env_construction.build" in command]
    levels = [command[command.index("--level") + 1] for command in builds]
    assert levels == ["compact", "compact", "medium", "paper"]
    for command in builds:
        assert command[command.index("--test-seed") + 1] == "271126"
        assert command[command.index("--author") + 1] == "facts+worlds"


def test_only_the_suite_of_unseen_relations_has_them() -> None:
    _, recorder = play("--author=worlds", "--experiment=tiny-plain-grpo-no-toolset-extension")
    builds = [command for command in recorder.commands if "env_construction.build" in command]
    unseen = [command for command in builds if "--in-domain-test" not in command]
    folders = [command[command.index("--out") + 1] for command in unseen]
    assert folders == [f"outputs/cpu-dev/environments-{name}" for name in ("unseen-relations", "paper-level")]
    trained = [command for command in builds if command[command.index("--n-train") + 1] != "0"]
    assert len(trained) == 2
    for command in (*trained, unseen[0]):
        assert command[command.index("--hold-out") + 1] == "relation:40%"
        assert command[command.index("--author") + 1] == "worlds"


def test_ablations_are_measured_on_dev_by_default() -> None:
    pipeline, recorder = play("--experiment=tiny-plain-grpo-strict")
    assert str(pipeline.out) == "outputs/cpu-dev"
    inside = [
        command
        for command in recorder.commands
        if "outputs/cpu-dev/eval/grpo-strict" in command and "--data" in command
    ]
    assert [command[command.index("--data") + 1] for command in inside] == ["outputs/cpu-dev/environments/dev.jsonl"]
    final, _ = play("--experiment=tiny-plain-grpo-strict", "--split=test")
    assert (final.split, str(final.out)) == ("test", "outputs/cpu")
    with pytest.raises(BadInput, match="split"):
        play("--experiment=tiny-plain-grpo-strict", "--run=cpu")


def test_the_matrix_trains_everything_with_three_seeds_and_all_controls() -> None:
    pipeline, _ = play("--matrix", "--run=matrix")
    names = [pipeline.name_of(training) for training in pipeline.trainings]
    assert len(names) == len(set(names)) == 2 * (2 * 2 + 3) * 3
    assert {"tiny-thinking-reinforce++-seed2", "mini-plain-grpo-solve-recall"} < set(names)
    controls = {role.control for role in read_roles(Path("outputs/matrix")).values() if role.role == "control"}
    assert controls == {"more-supervised", "oracle-demonstrations", "rejection-sampling", "shuffled"}


def test_trainings_are_matched_by_the_prompts_of_an_epoch() -> None:
    names = "tiny-plain-grpo-episode tiny-plain-grpo-episode-credit-discounted"
    pipeline, recorder = play(f"--experiment={names}", "--max-prompts=128")
    made = [command for command in recorder.commands if "train.rl_prompts" in command]
    assert len(made) == 2 * experiment("tiny-plain-grpo").scale.epochs
    assert all(command[command.index("--max-prompts") + 1] == "128" for command in made)
    assert all("--environments" in command for command in made), "episodes are played online"
    role = read_roles(pipeline.out)["grpo-episode-credit-discounted"]
    assert (role.role, role.episode, role.credit) == ("ablation", "turns", "discounted")


def test_trainings_share_the_trajectories_of_their_start() -> None:
    _, recorder = play()
    folders = folders_of(recorder, "train.collect_trajectories")
    first = [folder for folder in folders if folder.endswith("/epoch1")]
    assert first == [f"outputs/cpu/train/{name}/epoch1" for name in ("grpo", "thinking-grpo")]
    assert len(folders) == len(first) + len(PROFILES["cpu"].experiments) + 1, "epoch 2, also of rejection sampling"
    copied = {command[5]: command[6:] for command in recorder.commands if command[0] == "install"}
    assert len(copied) == len(PROFILES["cpu"].experiments) - len(first)
    mode = {name: "thinking-grpo" if "thinking" in name else "grpo" for name in copied}
    for folder, files in copied.items():
        assert {str(Path(file).parent) for file in files} == {f"outputs/cpu/train/{mode[folder]}/epoch1"}
    learned = next(command for command in recorder.commands if "train.rejection_sampling" in command)
    assert learned[learned.index("--trajectories") + 1] == "outputs/cpu/train/grpo/epoch1/trajectories.jsonl"


def test_other_seeds_environments_and_models_have_their_own_trajectories() -> None:
    _, recorder = play("--matrix", "--run=matrix")
    folders = folders_of(recorder, "train.collect_trajectories")
    assert sum(folder.endswith("/epoch1") for folder in folders) == 2 * 2 * 3, "models, modes, seeds"
    _, recorder = play("--experiment=tiny-plain-grpo-strict tiny-plain-grpo-no-toolset-extension")
    folders = folders_of(recorder, "train.collect_trajectories")
    assert sum(folder.endswith("/epoch1") for folder in folders) == 2


def test_a_finished_training_keeps_the_trajectories_it_was_trained_on() -> None:
    done = Path("outputs/cpu/train/reinforce++/epoch1/done.json")
    done.parent.mkdir(parents=True)
    done.write_text("{}", encoding="utf-8")
    _, recorder = play(BOTH)
    assert not [command for command in recorder.commands if command[0] == "install"]


def test_a_run_whose_earlier_weights_were_deleted_resumes() -> None:
    """`small` deletes the weights of epoch 1, so nothing may read them again once epoch 2 is finished."""
    for epoch in (1, 2):
        done = Path(f"outputs/small/train/grpo/epoch{epoch}/done.json")
        done.parent.mkdir(parents=True)
        done.write_text('{"seconds_in_steps": 60}', encoding="utf-8")
    _, recorder = play("--profile=small")
    readers = ("train.collect_trajectories", "train.rl_prompts")
    grpo = [command for command in recorder.commands if any("train/grpo/epoch" in part for part in command)]
    assert not [command for command in grpo if command[2] in readers and "outputs/small/train/grpo/epoch2" in command]
    assert not [command for command in grpo if command[2] == "train.rl_prompts"]
    assert sum(command[2] == "train.run_openrlhf" for command in grpo) == 2, "these check the configuration"
    others = folders_of(recorder, "train.collect_trajectories")
    assert "outputs/small/train/reinforce++/epoch2" in others


def test_tables_and_report_of_an_interrupted_call_are_made_again() -> None:
    play(BOTH)
    with pytest.raises(CommandFailed):
        play(BOTH, "--train-seed=1", failing="analysis.all")
    _, again = play(BOTH, "--train-seed=1")
    assert again.modules() == ["analysis.all", "analysis.manifest", "analysis.report"]
    _, rest = play(BOTH, "--train-seed=1")
    assert rest.commands == []


def test_suites_whose_data_were_missing_are_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = Path("outputs/small/eval/start/suites.json")
    skipped.parent.mkdir(parents=True)
    skipped.write_text('{"skipped": {"toolhop": "no data"}}', encoding="utf-8")
    play("--profile=small")
    assert "suites: no data for toolhop; the next call tries them again" in capsys.readouterr().out
    _, again = play("--profile=small")
    assert "eval.run" in again.modules() and "train.run_openrlhf" not in again.modules()
    skipped.write_text('{"skipped": {}}', encoding="utf-8")
    play("--profile=small")
    _, rest = play("--profile=small")
    assert rest.commands == []


def test_a_failed_diagnostic_does_not_end_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    _, recorder = play("--profile=small", "--preset=released", failing="train.logprob_gap")
    assert recorder.modules()[-1] == "analysis.report"
    assert "gap was not measured" in capsys.readouterr().err
    [gap] = [command for command in recorder.commands if "train.logprob_gap" in command]
    assert gap[gap.index("--temperature") + 1] == "0.7"


def test_supervised_controls_spend_no_time_on_dev_evaluations() -> None:
    _, recorder = play("--experiment=tiny-plain-grpo", "--controls")
    lessons = [command for command in recorder.commands if "train.warm_start" in command]
    assert [command[command.index("--evaluate-every") + 1] for command in lessons] == ["99999"] * 2


def test_a_control_has_the_epochs_prompts_and_samples_of_its_training() -> None:
    _, recorder = play("--experiment=tiny-plain-grpo", "--controls")
    rounds = [command for command in recorder.commands if "train.rejection_sampling" in command]
    scale = experiment("tiny-plain-grpo").scale
    assert len(rounds) == scale.epochs
    for command in rounds:
        assert command[command.index("--samples") + 1] == str(scale.samples_per_prompt)
        assert command[command.index("--max-prompts") + 1] == str(PROFILES["cpu"].max_prompts)
        # each of the two steps keeps the configuration of its folder
        trajectories = Path(command[command.index("--trajectories") + 1])
        assert Path(command[command.index("--out") + 1]) != trajectories.parent
    # The second round starts from the first round's checkpoint, and the last round writes the measured policy.
    assert rounds[1][rounds[1].index("--policy-dir") + 1] == rounds[0][rounds[0].index("--checkpoint") + 1]
    assert rounds[1][rounds[1].index("--checkpoint") + 1] == "outputs/cpu/controls/rejection-sampling"


def test_both_restoration_tests_run_for_the_first_training_on_test_environments_only() -> None:
    _, recorder = play()
    restored = [command for command in recorder.commands if "restore_" in command[2]]
    parts = sorted((command[2], command[command.index("--part") + 1]) for command in restored)
    counts = {"analysis.restore_elements": 3, "analysis.restore_layers": 7}
    assert parts == [(by, f"{part}/{count}") for by, count in counts.items() for part in range(1, count + 1)]
    for command in restored:
        assert command[3:8] == ["outputs/cpu", "--policy", "grpo", "--limit", str(PROFILES["cpu"].restored)]
        assert "--no-figures" in command, "other policies are measured at the same time"
    _, dev = play("--experiment=tiny-plain-grpo-strict")
    assert not [module for module in dev.modules() if "restore" in module]


def test_suites_without_data_do_not_end_a_run() -> None:
    _, recorder = play("--profile=small")
    suites = [command for command in recorder.commands if "eval.run" in command]
    assert len(suites) == 1 + 2 and all("--skip-missing" in command for command in suites)


@pytest.mark.parametrize(("more", "minutes", "seconds"), [((), "6", "40"), (("--gpus=0",), "26", "1300")])
def test_teaching_checks_more_often_on_a_gpu(more: tuple[str, ...], minutes: str, seconds: str) -> None:
    _, recorder = play("--profile=small", *more)
    [taught] = [command for command in recorder.commands if "train.warm_start" in command]
    assert taught[taught.index("--minutes") + 1] == minutes
    assert taught[taught.index("--evaluate-every") + 1] == seconds


def test_only_runs_one_stage_and_from_runs_it_and_all_later_ones() -> None:
    _, report = play("--only=report")
    assert report.modules() == ["analysis.manifest", "analysis.report"]
    _, rest = play("--from=analyse")
    assert rest.modules() == ["analysis.all", "analysis.manifest", "analysis.report"]


def test_a_failed_training_ends_the_run_and_is_retried() -> None:
    with pytest.raises(CommandFailed):
        play(BOTH, failing="tiny-plain-reinforce++")
    _, again = play(BOTH)
    assert "train.run_openrlhf" in again.modules() and "env_construction.build" not in again.modules()


def test_keep_going_finishes_the_other_trainings_and_names_the_failed_one() -> None:
    pipeline, recorder = play(BOTH, "--keep-going", failing="tiny-plain-reinforce++")
    assert pipeline.failed == ["reinforce++"]
    measured = [part for command in recorder.commands for part in command if part.startswith("outputs/cpu/eval/")]
    assert "outputs/cpu/eval/grpo" in measured and "outputs/cpu/eval/reinforce++" not in measured
    assert recorder.modules()[-1] == "analysis.report"
    _, again = play(BOTH, "--keep-going")
    assert "train.run_openrlhf" in again.modules()


def test_keep_going_trains_no_control_of_a_failed_training() -> None:
    failing = "outputs/cpu/train/grpo/epoch2"
    pipeline, recorder = play("--experiment=tiny-plain-grpo", "--controls", "--keep-going", failing=failing)
    assert pipeline.failed == ["grpo"]
    assert not {"train.rejection_sampling", "train.warm_start"} & set(recorder.modules())
    _, again = play("--experiment=tiny-plain-grpo", "--controls", "--keep-going")
    assert {"train.rejection_sampling", "train.warm_start"} < set(again.modules())


def test_keep_going_measures_no_failed_control() -> None:
    failing = "outputs/cpu/train/grpo-shuffled/epoch2"
    pipeline, recorder = play("--experiment=tiny-plain-grpo", "--controls", "--keep-going", failing=failing)
    assert pipeline.failed == ["grpo-shuffled"]
    assert "outputs/cpu/eval/grpo-shuffled" not in folders_of(recorder, "eval.environments")
    assert recorder.modules()[-1] == "analysis.report"


def test_a_run_folder_with_other_settings_is_refused() -> None:
    play("--seed=0")
    with pytest.raises(BadInput, match="seed"):
        play("--seed=1")
    with pytest.raises(BadInput, match="settings"):
        play("--set=actor.adam.lr=5e-6")
    with pytest.raises(BadInput, match="preset"):
        play("--preset=released")
    with pytest.raises(BadInput, match="reference"):
        play("--reference=base")


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(BadInput, match="--matrix trains with three seeds"):
        play("--matrix", "--train-seed=1")
    with pytest.raises(BadInput, match="no gold plans to teach"):
        play("--profile=small", "--data=published")


def test_a_taught_model_has_no_control_of_the_same_lessons() -> None:
    pipeline, _ = play("--profile=small", "--controls")
    assert pipeline.controls == ["oracle-demonstrations", "rejection-sampling", "shuffled"]


def test_trainer_options_reach_the_trainer() -> None:
    _, recorder = play(
        BOTH, "--set=actor.adam.lr=5e-6", "--set=actor.eps_clip=0.3", "--reference=base", "--save-steps=7"
    )
    [command, *_] = [command for command in recorder.commands if "train.run_openrlhf" in command]
    tail = command[command.index("--save-steps") - 2 :]
    assert tail == [
        "--reference", "base", "--save-steps", "7", "--base-policy", "outputs/cpu/start",
        "--set", "actor.adam.lr=5e-6", "--set", "actor.eps_clip=0.3",
    ]  # fmt: skip


def test_each_policy_has_a_role_and_earlier_roles_are_kept() -> None:
    play(BOTH, "--controls")
    play("--experiment=tiny-plain-grpo-solve-recall", "--train-seed=2", "--split=test")
    roles = read_roles(Path("outputs/cpu"))
    assert {name: role.role for name, role in roles.items()} == {
        "random": "floor",
        "oracle": "ceiling",
        "start": "start",
        "grpo": "trained",
        "reinforce++": "trained",
        "grpo-shuffled": "control",
        "more-supervised": "control",
        "oracle-demonstrations": "control",
        "rejection-sampling": "control",
        "grpo-solve-recall-seed2": "ablation",
    }
    ablation = roles["grpo-solve-recall-seed2"]
    assert (ablation.model, ablation.mode, ablation.algorithm, ablation.variant, ablation.seed, ablation.start) == (
        "tiny", "plain", "grpo", "solve_recall", 2, "start",
    )  # fmt: skip


def test_the_papers_roles_pair_each_policy_with_the_start_of_its_model_and_mode() -> None:
    play("--profile=paper")
    roles = read_roles(Path("outputs/paper"))
    trained = {name: role for name, role in roles.items() if role.role == "trained"}
    assert len(trained) == 12
    for role in trained.values():
        start = roles[role.start]
        assert (start.role, start.model, start.mode) == ("start", role.model, role.mode)
    assert len({role.start for role in trained.values()}) == 6


def test_unknown_roles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "policies.json").write_text(json.dumps({"start": {"role": "king"}}))
    with pytest.raises(BadInput, match=r"policies\.json.*'start'.*king"):
        read_roles(tmp_path)


def test_a_control_gets_the_time_of_the_first_trainings_steps() -> None:
    pipeline, _ = play(BOTH)
    for epoch, done in (
        (1, {"seconds": 60.0, "seconds_in_steps": 300.0}),
        (2, {"seconds": 900.0, "seconds_in_steps": 200.0}),
    ):
        folder = Path(f"outputs/cpu/train/grpo/epoch{epoch}")
        folder.mkdir(parents=True)
        (folder / "done.json").write_text(json.dumps(done))
    assert pipeline.train_minutes(pipeline.trainings[0]) == 8.33
