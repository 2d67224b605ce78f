"""The Dockerfiles and SLURM examples: every file and command that can be tested without Docker and SLURM."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = ["Dockerfile", "Dockerfile.cuda"]
SCRIPTS = sorted((ROOT / "examples" / "slurm").glob("*.sbatch"))
INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "CMD", "ARG"}


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of each line of a Dockerfile, with continuation lines joined."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, rest in lines]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_copied_files_exist_and_setup_inputs_are_copied_before_setup(name) -> None:
    found = instructions(name)
    assert {word for word, _ in found} <= INSTRUCTIONS and found[0][0] == "FROM"
    copied = [source for word, rest in found if word == "COPY" for source in rest.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    before = found[: next(place for place, (_, rest) in enumerate(found) if "setup.sh c" in rest and _ == "RUN")]
    early = {source for word, rest in before if word == "COPY" for source in rest.split()}
    assert {"setup.sh", "requirements.txt", "constraints-cpu.txt", "constraints-cuda.txt"} <= early
    assert {".git", ".venv", "outputs"} <= set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("name", DOCKERFILES)
def test_setup_accepts_the_arguments_in_a_dockerfile(name) -> None:
    command = next(rest for word, rest in instructions(name) if word == "RUN" and "setup.sh" in rest)
    shown = subprocess.run(
        [*shlex.split(command), "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={**os.environ, "FLASH_ATTN_WHEEL": "none"},
    )  # fmt: skip
    assert (
        "unknown" not in shown.stderr and f"route: {'CUDA' if 'cuda' in name else 'CPU'}, as requested" in shown.stdout
    )


def test_the_cuda_image_has_the_toolkit_that_torch_was_built_with_and_pythons_headers() -> None:
    cuda = re.search(r"^CUDA=(\S+)", (ROOT / "setup.sh").read_text(encoding="utf-8"), re.MULTILINE)
    base = instructions("Dockerfile.cuda")[0][1]
    assert cuda is not None and base.startswith(f"nvidia/cuda:{cuda[1]}.") and "-devel-" in base
    packages = " ".join(rest for word, rest in instructions("Dockerfile.cuda") if word == "RUN")
    assert "python3.12-dev" in packages and "python3.12-venv" in packages and "g++" in packages


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.name for script in SCRIPTS])
def test_a_slurm_example_runs_up_to_the_commands_of_its_training(tmp_path, script) -> None:
    """srun, scontrol and Ray are replaced by scripts that record their calls. run_all.sh is real, as a dry run."""
    calls = tmp_path / "calls"
    for name in ("srun", "sleep"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{calls}\n')
    (tmp_path / "scontrol").write_text("#!/bin/sh\nprintf 'node1\\nnode2\\n'\n")
    for name in ("srun", "sleep", "scontrol"):
        (tmp_path / name).chmod(0o755)
    clone = tmp_path / "clone"
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / "run_all.sh").symlink_to(ROOT / "run_all.sh")
    (clone / "setup.sh").write_text("exit 0\n")  # .venv is complete
    (clone / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (clone / ".venv" / "bin" / "python").chmod(0o755)
    (clone / ".venv" / "bin" / "ray").write_text("#!/bin/sh\necho ' 0.0/16.0 GPU'\n")
    (clone / ".venv" / "bin" / "ray").chmod(0o755)
    result = subprocess.run(
        ["bash", str(script), "--dry-run"], cwd=clone, capture_output=True, text=True, timeout=120,
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_ID": "7",
             "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    trainings = [line for line in result.stdout.splitlines() if "train.run_openrlhf" in line]
    assert len(trainings) == 3  # one per epoch of the experiment
    two = script.name == "two_nodes.sbatch"
    assert all(("--nodes 2 --ray-address http://node1:20008" in line) == two for line in trainings)
    if two:
        started = calls.read_text(encoding="utf-8")
        assert "--nodelist=node1" in started and "--head --port=20007" in started
        assert "--exclude=node1" in started and "--address=node1:20007" in started


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.name for script in SCRIPTS])
def test_a_slurm_example_requests_what_its_experiment_needs(script) -> None:
    from train.experiments import experiment
    from train.trainer.memory_plan import GPU_SIZES, memory_plan, smallest_gpu

    text = script.read_text(encoding="utf-8")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", text, re.MULTILINE))
    row = experiment(re.findall(r"^bash run_all\.sh .*--experiment (\S+)", text, re.MULTILINE)[0])
    nodes, gpus = int(options["nodes"]), int(options["gpus-per-node"])
    assert gpus == row.gpus and smallest_gpu(row) in (80, 141)
    plan = memory_plan(row, gpus, nodes, GPU_SIZES[80])
    assert not plan.missing
    assert sum(plan.host.values()) < int(options["mem"].removesuffix("G"))
