"""The launcher: a Ray of its own, the asked-for settings in every worker, and a refusal where a worker has none."""

import json
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from env_construction.environment.jsonl import BadInput
from train.trainer import openrlhf_launcher
from train.trainer.openrlhf_launcher import parse_arguments, worker_environment

ROOT = Path(__file__).resolve().parents[3]
REWARD_FILE = ROOT / "reward" / "openrlhf_reward.py"
SETTINGS = {
    "FTRL_REWARD_VARIANT": "solve_recall",
    "FTRL_REWARD_MATCH": "strict",
    "FTRL_REWARD_CONTROL": "shuffled",
    "FTRL_REWARD_SEED": "11",
}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture(scope="module")
def other_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray cluster that somebody else left running here, with no reward settings; its address."""
    pytest.importorskip("ray")
    environ = {key: value for key, value in os.environ.items() if not key.startswith("FTRL_")}
    for attempt in (1, 2):  # as our launcher: on a busy machine Ray's start takes longer than Ray waits
        port, agent, runtime, metrics = free_ports(4)
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--port", str(port),
            "--num-cpus", "2", "--num-gpus", "1", "--include-dashboard", "false", "--object-store-memory", "100000000",
            "--disable-usage-stats",
            "--dashboard-agent-listen-port", str(agent), "--runtime-env-agent-port", str(runtime),
            "--metrics-export-port", str(metrics), "--node-ip-address", "127.0.0.1",
        ]  # fmt: skip
        log = tmp_path_factory.mktemp("ray") / "log"
        with log.open("w") as handle:
            process = subprocess.Popen(
                command, stdout=handle, stderr=subprocess.STDOUT, env=environ, start_new_session=True
            )
        limit = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.2)
        if "Ray runtime started" in log.read_text() and process.poll() is None:
            break
        process.terminate()
        process.wait(60)
        assert attempt == 1, log.read_text()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()  # --block: its own processes end with it
        process.wait(60)


def port_of(address: str) -> str:
    return address.rpartition(":")[2]


def launched(environ: dict[str, str], *own: str) -> subprocess.CompletedProcess:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FTRL_")}
    command = [sys.executable, str(Path(__file__).with_name("ray_worker_settings.py")), str(REWARD_FILE), *own]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**clean, "PYTHONPATH": str(ROOT), **environ},
    )


def test_workers_train_what_was_asked_for_beside_another_cluster(other_cluster: str) -> None:
    """Ray by itself would join that cluster, whose workers have its environment and not the driver's."""
    result = launched(
        {**SETTINGS, "RAY_ADDRESS": other_cluster, "CUDA_VISIBLE_DEVICES": "3"},
        "--gpus", "0", "--threads", "3", "--adapt", "cpu,no-flash-attn", "--", "--train.seed", "5",
    )  # fmt: skip
    lines = [line for line in result.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, result.stderr[-3000:]
    found = json.loads(lines[0][6:])
    assert port_of(found["cluster"]) != port_of(other_cluster)
    assert found["settings"] == {
        "reward_variant": "solve_recall",
        "reward_match": "strict",
        "reward_control": "shuffled",
        "reward_episode": "none",
        "reward_credit": "none",
        "reward_seed": 11,
    }
    assert (found["OMP_NUM_THREADS"], found["flags"]) == ("3", ["--train.seed", "5"])
    assert found["cuda"] is False and found["adapted"] == "AdaptAfterImport"


def test_a_cluster_that_is_joined_gets_the_settings_and_the_interpreter(other_cluster: str) -> None:
    result = launched(SETTINGS, "--gpus", "1", "--adapt", "cpu,no-flash-attn", "--join", other_cluster)
    lines = [line for line in result.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, result.stderr[-3000:]
    found = json.loads(lines[0][6:])
    assert port_of(found["cluster"]) == port_of(other_cluster)
    assert (found["settings"]["reward_variant"], found["settings"]["reward_seed"]) == ("solve_recall", 11)
    assert found["interpreter"] == sys.executable and found["adapted"] == "AdaptAfterImport"


@pytest.mark.parametrize("missing", sorted(SETTINGS))
def test_the_reward_file_refuses_to_load_without_its_settings(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in SETTINGS.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv(missing)
    with pytest.raises(BadInput, match=f"{missing} not set in this process: training has no default reward"):
        runpy.run_path(str(REWARD_FILE))


def test_the_trainers_flags_stay_apart_from_the_launchers(capsys: pytest.CaptureFixture[str]) -> None:
    own, flags = parse_arguments(["--gpus", "2", "--adapt", "lora", "--", "--adapt", "x", "--", "y"])
    assert (own.gpus, own.adapt, flags) == (2, ["lora"], ["--adapt", "x", "--", "y"])
    with pytest.raises(SystemExit):
        parse_arguments(["--gpus", "1", "--adapt", "tpu"])
    assert "--adapt tpu: expected some of cpu, lora, no-flash-attn" in capsys.readouterr().err


def test_workers_get_the_settings_the_threads_and_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        **SETTINGS,
        "TOOL_SANDBOX_WORKERS": "2",
        "OPENRLHF_REFERENCE": "base",
        "UNRELATED": "x",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    found = worker_environment(["lora"], 12)
    assert SETTINGS.items() <= found.items()
    assert (found["TOOL_SANDBOX_WORKERS"], found["OPENRLHF_REFERENCE"]) == ("2", "base")
    assert (found["OMP_NUM_THREADS"], found["TRAIN_ADAPT"]) == ("12", "lora")
    assert found["PYTHONPATH"] == f"{ROOT}:/elsewhere"
    assert "UNRELATED" not in found and "DS_ACCELERATOR" not in found
    assert worker_environment(["cpu"], 1)["DS_ACCELERATOR"] == "cpu"


def test_a_ray_that_does_not_start_is_started_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    calls: list[str] = []

    def init(**settings: object) -> None:
        calls.append(str(settings["address"]))
        if calls.count("local") <= failures:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(openrlhf_launcher.time, "sleep", lambda seconds: None)
    failures = 1
    openrlhf_launcher.start_ray(["cpu"], 0, 1)
    assert calls == ["local", "shutdown", "local"]
    calls.clear()
    failures = 2
    with pytest.raises(Exception, match="timed out"):
        openrlhf_launcher.start_ray(["cpu"], 0, 1)
