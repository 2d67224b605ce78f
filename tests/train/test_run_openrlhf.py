"""train.run_openrlhf: rejected inputs, progress output, kept files, and a second run in the same folder."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput, write_jsonl
from reward.controls import RewardSettings
from reward.logged_settings import codes
from train import run_openrlhf
from train.experiments import experiment
from train.policies.prompts import load_tokenizer, template_sha256
from train.run_openrlhf import train
from train.trainer.training_launch import check, make_launch

ROOT = Path(__file__).resolve().parents[2]
# Replaces the trainer's command: it writes the lines that OpenRLHF writes, because the real trainer takes a minute
# (the smoke profile of run_all.sh runs it).
STEPS = """
import sys
for step in range(int(sys.argv[1]), int(sys.argv[2]) + 1):
    print("(PPOTrainer pid=1) Global step %d: {'rollout/reward_mean': %f, 'kl': 0.1, 'timing/step_total': 2.0, "
          "'rollout/response_length_mean': 50.5, 'rollout/num_samples': 128.0, SETTINGS}" % (step, step / 10))
print(sys.argv[3])
raise SystemExit(int(sys.argv[4]))
"""


def trainer(first: int, last: int, message: str = "end", code: int = 0, **environ: str) -> list[str]:
    """`environ`: reward settings of its workers that differ from those of tiny-plain-grpo with seed 0."""
    logged = codes(RewardSettings.from_environ({**os.environ, **environ}))
    script = STEPS.replace("SETTINGS", ", ".join(f"{key!r}: {value}" for key, value in logged.items()))
    return [sys.executable, "-c", script, str(first), str(last), message, str(code)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "openrlhf").mkdir()
    return tmp_path


def logged_steps(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_step_is_logged_and_shown(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = train(trainer(1, 3), {}, out, epoch=2, steps=3)
    assert [(row["epoch"], row["step"], row["rollout/reward_mean"]) for row in rows] == [
        (2, 1, 0.1),
        (2, 2, 0.2),
        (2, 3, 0.3),
    ]
    assert logged_steps(out) == [1, 2, 3]
    assert "Global step 3" in (out / "openrlhf" / "output.log").read_text(encoding="utf-8")
    assert "step 2/3: reward 0.200, kl 0.1000, 2 s, about 2 s left" in capsys.readouterr().out


def test_failed_trainer_shows_its_last_lines_and_the_log(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match=r"code 3 after 2 of 5 steps; complete log: .*output\.log"):
        train(trainer(1, 2, "ValueError: out of luck", 3), {}, out, epoch=1, steps=5)
    assert "ValueError: out of luck" in capsys.readouterr().err


def test_a_trainer_that_stops_early_without_an_error_is_a_failure_too(out: Path) -> None:
    with pytest.raises(BadInput, match="after 2 of 5 steps"):
        train(trainer(1, 2), {}, out, epoch=1, steps=5)


def test_a_killed_run_starts_again_where_no_state_was_saved(out: Path) -> None:
    with pytest.raises(BadInput):
        train(trainer(1, 4, code=-9), {}, out, epoch=1, steps=6)
    assert logged_steps(out) == [1, 2, 3, 4]
    train(trainer(1, 6), {}, out, epoch=1, steps=6)
    assert logged_steps(out) == [1, 2, 3, 4, 5, 6]


def test_a_killed_run_goes_on_at_its_saved_state(out: Path) -> None:
    with pytest.raises(BadInput):
        train(trainer(1, 4, code=-9), {}, out, epoch=1, steps=6)
    state = out / "openrlhf" / "state" / "_actor"
    (state / "global_step3").mkdir(parents=True)
    (state / "global_step3" / "metric.json").touch()
    (state / "global_step4").mkdir()  # the kill came while this one was saved
    (state / "latest").write_text("global_step4", encoding="utf-8")
    rows = train(trainer(4, 6), {}, out, epoch=1, steps=6)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_goes_wrong_is_stopped_and_its_log_kept(out: Path) -> None:
    script = STEPS.replace("'kl': 0.1, ", "'kl': nan, ").replace(", SETTINGS", "") + "import time; time.sleep(60)"
    began = time.monotonic()
    with pytest.raises(BadInput, match="stopped at step 1: kl is not a number"):
        train(
            [sys.executable, "-u", "-c", script.replace("raise SystemExit", "print"), "1", "3", "", "0"], {}, out, 1, 3
        )
    assert time.monotonic() - began < 30
    assert logged_steps(out) == [1]


def test_the_trainer_ends_when_its_parent_is_killed(out: Path) -> None:
    pid_file = out / "pid"
    sleeper = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = (
        "import sys; from pathlib import Path; from train.run_openrlhf import train; "
        f"train([sys.executable, '-c', {sleeper!r}], {{}}, Path({str(out)!r}), 1, 1)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    _wait_for(lambda: pid_file.exists() and pid_file.read_text() != "")
    child = int(pid_file.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_for(lambda: not _alive(child))


def _wait_for(condition: Any) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def write_prompts(folder: Path, template: str, count: int = 16) -> Path:
    rows = [{"prompt": f"p{i}", "label": "{}", "template_sha256": template} for i in range(count)]
    write_jsonl(folder / "prompts.jsonl", rows)
    return folder / "prompts.jsonl"


def arguments(policy: Path | str, prompts: Path | str, out: Path | str, *more: str) -> list[str]:
    line = [
        "--experiment",
        "tiny-plain-grpo",
        "--policy-dir",
        str(policy),
        "--prompts",
        str(prompts),
        "--out",
        str(out),
    ]
    return [*line, *more]


def parsed(monkeypatch: pytest.MonkeyPatch, line: list[str]) -> argparse.Namespace:
    monkeypatch.setattr(sys, "argv", ["run_openrlhf", *line])
    return run_openrlhf.parse_arguments()


def test_prompts_of_another_template_are_refused(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = experiment("tiny-plain-grpo")
    good = write_prompts(tmp_path, template_sha256(load_tokenizer(tiny_checkpoint)))
    check(row, make_launch(row, parsed(monkeypatch, arguments(tiny_checkpoint, good, tmp_path))))
    bad = write_prompts(tmp_path, "0" * 64)
    with pytest.raises(BadInput, match=r"prompts\.jsonl:1: rendered with another chat template"):
        check(row, make_launch(row, parsed(monkeypatch, arguments(tiny_checkpoint, bad, tmp_path))))


def test_episodes_need_prompts_for_episodes_in_the_same_mode(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = experiment("tiny-plain-grpo-outcome")
    template = template_sha256(load_tokenizer(tiny_checkpoint))
    line = arguments(tiny_checkpoint, tmp_path / "prompts.jsonl", tmp_path)
    for label, good in (('{"thinking": false}', True), ('{"thinking": true}', False), ("{}", False), ("torn", False)):
        rows = [{"prompt": "p", "label": label, "template_sha256": template}] * 16
        write_jsonl(tmp_path / "prompts.jsonl", rows)
        launch = make_launch(row, parsed(monkeypatch, line))
        if good:
            check(row, launch)
            continue
        with pytest.raises(BadInput, match=r"prompts\.jsonl:1: tiny-plain-grpo-outcome plays complete episodes"):
            check(row, launch)


def test_credit_by_gold_calls_needs_gold_calls(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = template_sha256(load_tokenizer(tiny_checkpoint))
    line = arguments(tiny_checkpoint, tmp_path / "prompts.jsonl", tmp_path)
    for credit, label, good in (
        ("matchtir-hard", '{"thinking": false, "gold_plan": [{"name": "f"}]}', True),
        ("matchtir-soft", '{"thinking": false, "gold_plan": []}', False),
        ("matchtir-hard", '{"thinking": false}', False),
        ("discounted", '{"thinking": false}', True),
    ):
        write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "p", "label": label, "template_sha256": template}] * 16)
        row = experiment(f"tiny-plain-grpo-episode-credit-{credit}")
        launch = make_launch(row, parsed(monkeypatch, line))
        if good:
            check(row, launch)
            continue
        with pytest.raises(
            BadInput, match=r"prompts\.jsonl:1: .* compares calls with gold calls, but this environment has none"
        ):
            check(row, launch)


def test_fewer_prompts_than_a_rollout_batch_are_refused(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = experiment("tiny-plain-grpo")
    few = write_prompts(tmp_path, "", count=15)
    with pytest.raises(BadInput, match="15 prompts do not fill a rollout batch of 16"):
        check(row, make_launch(row, parsed(monkeypatch, arguments(tiny_checkpoint, few, tmp_path))))


@pytest.mark.parametrize("name", ["a,b", "me@home", "run@0.5"])
def test_a_folder_that_openrlhf_would_split_is_refused(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    row = experiment("tiny-plain-grpo")
    template = template_sha256(load_tokenizer(tiny_checkpoint))
    (tmp_path / name).mkdir()
    good, bad = write_prompts(tmp_path, template), write_prompts(tmp_path / name, template)
    for prompts, out in ((bad, tmp_path), (good, tmp_path / name)):
        with pytest.raises(BadInput, match=f"{name}.*: OpenRLHF splits paths at"):
            check(row, make_launch(row, parsed(monkeypatch, arguments(tiny_checkpoint, prompts, out))))


def test_a_model_folder_without_a_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = experiment("tiny-plain-grpo")
    prompts = write_prompts(tmp_path, "")
    with pytest.raises(BadInput, match="tokenizer"):
        check(row, make_launch(row, parsed(monkeypatch, arguments(tmp_path, prompts, tmp_path))))


def test_a_gpu_experiment_without_a_gpu_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    row = experiment("qwen3-8b-plain-grpo")
    launch = make_launch(
        row, parsed(monkeypatch, arguments("no/such-model", write_prompts(tmp_path, "", 512), tmp_path))
    )
    with pytest.raises(BadInput, match=r"needs 8 GPU\(s\), but this machine has none"):
        check(row, launch)


def test_a_broken_prompt_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "p", "label": "{}"}\n{"prompt": "p"}\n', encoding="utf-8")
    line = arguments("start", tmp_path / "prompts.jsonl", tmp_path)
    with pytest.raises(BadInput, match=r"prompts\.jsonl:2: key 'label' is missing"):
        make_launch(experiment("tiny-plain-grpo"), parsed(monkeypatch, line))


def test_base_reference_needs_a_base_and_travels_to_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = arguments("start", "prompts.jsonl", tmp_path, "--reference", "base", "--dry-run")
    parsed(monkeypatch, line)
    with pytest.raises(BadInput, match="--base-policy"):
        run_openrlhf.main()
    parsed(monkeypatch, [*line, "--base-policy", str(tmp_path)])
    run_openrlhf.main()
    assert f"OPENRLHF_REFERENCE={tmp_path}" in capsys.readouterr().out


def test_dry_run_needs_no_files_and_writes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed(monkeypatch, arguments("start", "none.jsonl", tmp_path / "out", "--dry-run"))
    assert run_openrlhf.main() == 0
    assert "FTRL_REWARD_VARIANT=solve_f1" in (shown := capsys.readouterr().out)
    assert (
        "python -m train.trainer.openrlhf_launcher --gpus 0 --threads" in shown
        and "--actor.model_name_or_path start" in shown
    )
    assert not (tmp_path / "out").exists()


def test_a_larger_model_multiplies_in_bf16_on_a_cpu_and_takes_all_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown = {}
    for name in ("tiny-plain-grpo", "smollm2-135m-cpu-plain-grpo", "smollm2-135m-plain-grpo"):
        line = arguments("start", "none.jsonl", tmp_path / "out", "--dry-run")
        line[1] = name
        parsed(monkeypatch, line)
        run_openrlhf.main()
        printed = capsys.readouterr().out
        shown[name] = ("TRAIN_CPU_MATMUL=bf16" in printed, "--threads 6" in printed)
    assert shown == {
        "tiny-plain-grpo": (False, False),
        "smollm2-135m-cpu-plain-grpo": (True, True),
        "smollm2-135m-plain-grpo": (False, True),  # on a GPU: the optimizer's step runs on all cores of the host
    }


def test_a_finished_run_is_not_repeated_and_another_configuration_is_refused(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path, template_sha256(load_tokenizer(tiny_checkpoint)))
    line = arguments(tiny_checkpoint, prompts, tmp_path / "out")
    monkeypatch.setattr(run_openrlhf, "build_command", lambda *_: trainer(1, 1))
    parsed(monkeypatch, line)
    assert run_openrlhf.main() == 0
    summary = json.loads((tmp_path / "out" / "done.json").read_text(encoding="utf-8"))
    assert (summary["steps"], summary["seconds_in_steps"], summary["model_tokens"]) == (1, 2.0, 6464)
    monkeypatch.setattr(run_openrlhf, "build_command", lambda *_: trainer(1, 0, code=1))
    assert run_openrlhf.main() == 0
    assert "already trained" in capsys.readouterr().out
    parsed(monkeypatch, [*line, "--seed", "5"])
    with pytest.raises(BadInput, match=r"seed: 0 in the folder, 5 requested"):
        run_openrlhf.main()
    row = experiment("tiny-plain-grpo")
    changed = replace(row, scale=replace(row.scale, learning_rate=0.5))
    monkeypatch.setattr(run_openrlhf, "experiment", lambda *_: changed)
    parsed(monkeypatch, line)
    with pytest.raises(BadInput, match=r"scale\.learning_rate: .* in the folder, 0\.5 requested"):
        run_openrlhf.main()


def test_an_unknown_name_ends_with_code_2_and_the_closest_names() -> None:
    line = arguments("start", "prompts.jsonl", "out", "--dry-run")
    line[1] = "tiny-plain-gpro"
    result = subprocess.run(
        [sys.executable, "-m", "train.run_openrlhf", *line], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 2
    assert "closest: " in result.stderr and "tiny-plain-grpo" in result.stderr


FINISHED = {
    "reward_variant": "solve_f1", "reward_match": "published", "reward_control": "", "reward_episode": "none",
    "reward_credit": "none", "reward_seed": 0,
}  # fmt: skip


def test_a_step_with_another_reward_than_asked_for_stops_the_run(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = write_prompts(tmp_path, template_sha256(load_tokenizer(tiny_checkpoint)))
    parsed(monkeypatch, arguments(tiny_checkpoint, prompts, tmp_path / "out"))
    for environ, wrong in (
        ({"FTRL_REWARD_VARIANT": "solve_recall"}, "reward_variant is 'solve_recall', expected 'solve_f1'"),
        ({"FTRL_REWARD_CONTROL": "shuffled"}, "reward_control is 'shuffled', expected ''"),
        ({"FTRL_REWARD_SEED": "3"}, "reward_seed is 3, expected 0"),
    ):
        monkeypatch.setattr(run_openrlhf, "build_command", lambda *_, environ=environ: trainer(1, 1, **environ))
        with pytest.raises(BadInput, match=f"stopped at step 1: it was trained with another reward: {wrong}"):
            run_openrlhf.main()
        assert not (tmp_path / "out" / "done.json").exists()


def test_a_log_without_the_rewards_settings_is_no_proof(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = write_prompts(tmp_path, template_sha256(load_tokenizer(tiny_checkpoint)))
    parsed(monkeypatch, arguments(tiny_checkpoint, prompts, tmp_path / "out"))
    script = STEPS.replace(", SETTINGS", "")
    monkeypatch.setattr(run_openrlhf, "build_command", lambda *_: [sys.executable, "-c", script, "1", "1", "end", "0"])
    with pytest.raises(BadInput, match="reward_variant is 'not logged', expected 'solve_f1'"):
        run_openrlhf.main()


def test_a_finished_run_proves_its_reward_in_log_and_summary(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    prompts = write_prompts(tmp_path, template_sha256(load_tokenizer(tiny_checkpoint)))
    line = arguments(tiny_checkpoint, prompts, out)
    monkeypatch.setattr(run_openrlhf, "build_command", lambda *_: trainer(1, 1))
    parsed(monkeypatch, line)
    assert run_openrlhf.main() == 0
    summary = json.loads((out / "done.json").read_text(encoding="utf-8"))
    assert summary["reward"] == FINISHED
    [row] = [json.loads(text) for text in (out / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {key: row[key] for key in FINISHED} == FINISHED
    # made again since, or gone: the epoch is finished all the same
    write_jsonl(prompts, [{"prompt": "other", "label": "{}"}])
    assert run_openrlhf.main() == 0
    assert "has changed since" in capsys.readouterr().out
    prompts.unlink()
    assert run_openrlhf.main() == 0
    parsed(monkeypatch, [*line, "--reward-control", "shuffled"])
    with pytest.raises(BadInput, match="reward_control: '\\(absent\\)' in the folder, 'shuffled' requested"):
        run_openrlhf.main()
    parsed(monkeypatch, line)
    reward = summary.pop("reward")
    (out / "done.json").write_text(json.dumps(summary), encoding="utf-8")
    assert run_openrlhf.main() == 0
    assert "trained before the reward was logged" in capsys.readouterr().out
    summary["reward"] = {key: value for key, value in reward.items() if key != "reward_credit"}
    (out / "done.json").write_text(json.dumps(summary), encoding="utf-8")
    assert run_openrlhf.main() == 0, "trained before there was credit per turn: without it"
    summary["reward"] = {**reward, "reward_variant": "solve_recall"}
    (out / "done.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(BadInput, match="trained with another reward: reward_variant is 'solve_recall'"):
        run_openrlhf.main()


def test_unfinished_runs_keep_to_their_prompts(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = template_sha256(load_tokenizer(tiny_checkpoint))
    prompts = write_prompts(tmp_path, template)
    monkeypatch.setattr(run_openrlhf, "build_command", lambda *_: trainer(1, 0, code=1))
    parsed(monkeypatch, arguments(tiny_checkpoint, prompts, tmp_path / "out"))
    with pytest.raises(BadInput, match="ended with code 1"):
        run_openrlhf.main()
    write_prompts(tmp_path, template, count=17)
    with pytest.raises(BadInput, match="prompts_sha256"):
        run_openrlhf.main()
