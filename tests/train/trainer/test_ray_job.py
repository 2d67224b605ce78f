"""Training as a cluster job: an earlier job never runs together with a new one, and a job ends with its client.

A fake `ray` replaces the command line client and the cluster. Its jobs are files, which a real server would keep.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from env_construction.environment.jsonl import BadInput
from train.run_openrlhf import train
from train.trainer import ray_job
from train.trainer.ray_job import RayJob

ROOT = Path(__file__).resolve().parents[3]
CLIENT = """#!{python}
import os, sys, time
from pathlib import Path
jobs = Path({jobs!r})
command, options = sys.argv[2], sys.argv[3:]
with (jobs / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]).split(" --runtime-env-json")[0] + "\\n")
if command == "submit":
    job = jobs / options[options.index("--submission-id") + 1]
    job.write_text("RUNNING")
    print("Global step 1: {{'rollout/reward_mean': 0.5}}", flush=True)
    if "fail" in options:
        job.write_text("FAILED")
        sys.exit(1)
    while "forever" in options:  # follows the log of the job
        time.sleep(0.05)
    job.write_text("SUCCEEDED")
elif options[1] == "http://gone:8265":
    sys.exit("ConnectionError: Failed to connect to Ray at address: http://gone:8265.")
elif not (jobs / options[2]).exists():
    sys.exit("RuntimeError: Request failed with status code 404: Job " + options[2] + " does not exist")
elif (jobs / options[2]).read_text() == "RUNNING":
    (jobs / options[2]).write_text("STOPPED")
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cluster's jobs, each a file with its status; `calls` has every call of the client."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    client = tmp_path / "ray"
    client.write_text(CLIENT.format(python=sys.executable, jobs=str(folder)), encoding="utf-8")
    client.chmod(0o755)
    monkeypatch.setattr(ray_job, "RAY", str(client))
    (tmp_path / "openrlhf").mkdir()
    return folder


def statuses(jobs: Path) -> list[str]:
    return sorted(job.read_text() for job in jobs.glob("ftrl-*"))


def job_of(out: Path, address: str = "http://head:8265") -> RayJob:
    return RayJob(address, out / "openrlhf" / "job.txt")


def test_the_log_of_a_job_is_followed_to_its_end(jobs: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path)
    rows = train(job.submit_command(["entry"], {}), {}, tmp_path, 1, 1, job=job)
    assert [row["step"] for row in rows] == [1]
    assert statuses(jobs) == ["SUCCEEDED"]
    assert "stop" not in (jobs / "calls").read_text()


def test_a_job_that_the_health_watch_stops_ends_on_the_cluster(jobs: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path)
    with pytest.raises(BadInput, match="stopped at step 1"):
        train(job.submit_command(["forever"], {}), {}, tmp_path, 1, 5, wanted={"reward_variant": "solve_f1"}, job=job)
    assert statuses(jobs) == ["STOPPED"]


def test_a_scheduler_that_stops_us_stops_the_job(jobs: Path, tmp_path: Path) -> None:
    script = (
        "import signal, sys; from pathlib import Path; from train import run_openrlhf; "
        "from train.trainer import ray_job; "
        f"ray_job.RAY = {ray_job.RAY!r}; run_openrlhf.stop_on_sigterm(); out = Path({str(tmp_path)!r}); "
        "job = ray_job.RayJob('http://head:8265', out / 'openrlhf' / 'job.txt'); "
        "run_openrlhf.train(job.submit_command(['forever'], {}), {}, out, 1, 5, job=job)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    limit = time.monotonic() + 60
    while statuses(jobs) != ["RUNNING"]:
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert statuses(jobs) == ["STOPPED"]


def test_a_job_that_still_runs_is_stopped_before_a_second_one_starts(jobs: Path, tmp_path: Path) -> None:
    """The first call was killed: nothing of it is left but the job on the cluster, and its id in the folder."""
    (jobs / "ftrl-first").write_text("RUNNING")
    job = job_of(tmp_path)
    job.file.write_text("ftrl-first\n", encoding="utf-8")
    train(job.submit_command(["entry"], {}), {}, tmp_path, 1, 1, job=job)
    assert statuses(jobs) == ["STOPPED", "SUCCEEDED"]
    assert [call.split()[1] for call in (jobs / "calls").read_text().splitlines()] == ["stop", "submit"]


def test_a_job_of_a_cluster_that_is_gone_is_no_obstacle_but_an_unreachable_one_is(jobs: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path)
    job.file.write_text("ftrl-of-another-cluster\n", encoding="utf-8")
    job.stop()
    assert not job.file.exists()
    job.file.write_text("ftrl-first\n", encoding="utf-8")
    with pytest.raises(
        BadInput, match=r"job ftrl-first may still be running \(ConnectionError.*ray job stop --address"
    ):
        job_of(tmp_path, "http://gone:8265").stop()
    assert job.file.exists()


def test_a_job_that_failed_is_told_as_a_failure(jobs: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path)
    with pytest.raises(BadInput, match="ended with code 1 after 1 of 2 steps"):
        train(job.submit_command(["fail"], {}), {}, tmp_path, 1, 2, job=job)
    assert statuses(jobs) == ["FAILED"]
