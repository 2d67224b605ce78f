"""setup.sh --check: its decisions on machines with different GPUs, compilers, Python versions and disk space."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = [
    "bash",
    "awk",
    "cat",
    "cksum",
    "cut",
    "df",
    "dirname",
    "grep",
    "head",
    "mktemp",
    "nproc",
    "paste",
    "printenv",
    "rm",
    "sed",
    "sort",
    "tail",
    "tr",
    "uname",
    "uniq",
    "wc",
    "xargs",
]
PYTHON = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")


class Machine:
    """A folder with the files of setup.sh, and a PATH that has only the programs of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder / "clone", folder / "bin"
        self.folder.mkdir()
        self.bin.mkdir()
        for name in ("setup.sh", "requirements.txt", "constraints-cpu.txt", "constraints-cuda.txt"):
            shutil.copy(ROOT / name, self.folder / name)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))  # type: ignore[arg-type]
        self.has("python3.11", f'exec {PYTHON} "$@"')
        self.has("df", "printf 'head\\ndisk 1 1 %d 1 /\\n' $((100 * 1048576))")

    def has(self, name: str, script: str) -> "Machine":
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)
        return self

    def lacks(self, name: str) -> "Machine":
        (self.bin / name).unlink()
        return self

    def with_gpus(self, capability: str = "9.0", driver: str = "580.65.06", gpus: int = 1) -> "Machine":
        answers = {"driver_version": driver, "compute_cap": capability, "name": "NVIDIA H100"}
        cases = "".join(
            f"*={key}*) for i in $(seq {gpus}); do echo '{value}'; done ;;\n" for key, value in answers.items()
        )
        self.has("seq", f"i=0; while [ $i -lt {gpus} ]; do echo $i; i=$((i + 1)); done")
        return self.has("nvidia-smi", f'case "$*" in\n{cases}esac').has("g++", "exit 0")

    def with_nvcc(self, version: str) -> "Machine":
        return self.has("nvcc", f"echo 'Cuda compilation tools, release {version}, V{version}.88'")

    def check(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """The output of --check, both streams. Asserts the exit code and that the folder is unchanged."""
        before = sorted(self.folder.rglob("*"))
        result = subprocess.run(
            ["bash", "setup.sh", "--check", *arguments], cwd=self.folder, capture_output=True, text=True, timeout=60,
            env={"PATH": str(self.bin), "HOME": str(self.folder), "CUDA_HOME": "/nowhere", **environment},
        )  # fmt: skip
        assert result.returncode == code, result.stdout + result.stderr
        assert sorted(self.folder.rglob("*")) == before
        return result.stdout + result.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_route_follows_the_driver_by_default(machine) -> None:
    assert "route: CPU, because nvidia-smi does not answer" in machine.check()
    assert "route: CUDA, because nvidia-smi answers" in machine.with_gpus().check()


@pytest.mark.parametrize("route", ["cpu", "cuda"])
def test_route_of_the_venv_is_kept_on_any_machine(machine, route) -> None:
    (machine.folder / ".venv").mkdir()
    (machine.folder / ".venv" / ".setup-stamp").write_text(f"123-{route}")
    shown = machine.with_gpus().check()
    assert f"route: {route.upper()}, the route of .venv" in shown
    assert ("bash setup.sh cuda uses it" in shown) == (route == "cpu")
    assert "route: CPU, as requested" in machine.check("cpu")


def test_driver_that_cannot_run_this_torch_is_rejected_with_both_versions(machine) -> None:
    shown = machine.with_gpus(driver="570.124.06").check(code=2)
    assert "error: driver 570.124.06 is too old" in shown and "needs driver 580 or newer" in shown
    assert "8 x NVIDIA H100" in machine.with_gpus(gpus=8).check()


def test_cuda_route_without_a_driver_is_rejected_except_for_images(machine) -> None:
    machine.has("g++", "exit 0")
    assert "error: nvidia-smi does not answer" in machine.check("cuda", code=2)
    assert "nothing can be tested on a GPU now" in machine.check("cuda", "--without-driver")


@pytest.mark.parametrize(
    ("capability", "architectures"),
    [("9.0", "sm_90"), ("8.6", "sm_80"), ("8.9", "sm_80"), ("12.0", "sm_120"), ("7.5", None)],
)
def test_flash_attention_is_built_for_the_gpus_of_the_machine(machine, capability, architectures) -> None:
    shown = machine.with_gpus(capability).with_nvcc("13.0").check(MAX_JOBS="10")
    if architectures is None:
        assert "no code for these GPUs (compute capability 7.5)" in shown
    else:
        assert f"built once with nvcc 13.0 for {architectures} by 10 compilers; estimate: 30 minutes" in shown


def test_architectures_set_by_the_user_take_precedence(machine) -> None:
    shown = machine.with_gpus("9.0").with_nvcc("13.0").check(TORCH_CUDA_ARCH_LIST="8.0;8.6 9.0+PTX", MAX_JOBS="10")
    assert "for sm_80, sm_90 by 10 compilers; estimate: 60 minutes" in shown


@pytest.mark.parametrize(
    ("version", "built", "noted"), [("13.0", True, False), ("13.2", True, True), ("12.8", False, True)]
)
def test_nvcc_of_another_cuda_is_not_used_and_deepspeeds_limit_is_reported(machine, version, built, noted) -> None:
    shown = machine.with_gpus().with_nvcc(version).check()
    assert ("flash-attn: will be built" in shown) == built
    assert ("flash-attn: nvcc 12.8 cannot build for torch's CUDA 13.0" in shown) == (not built)
    assert ("DeepSpeed compiles its optimizer with 13.0 only" in shown) == noted


def test_without_nvcc_flash_attention_is_skipped_and_the_alternative_is_named(machine) -> None:
    assert "found no nvcc, so it is left out: training uses sdpa attention" in machine.with_gpus().check()


def test_wheel_is_used_only_if_one_is_named(machine, tmp_path) -> None:
    machine.with_gpus().with_nvcc("13.0")
    assert "the wheel https://example.org/flash_attn.whl" in machine.check(
        FLASH_ATTN_WHEEL="https://example.org/flash_attn.whl"
    )
    assert "error: FLASH_ATTN_WHEEL: no such file: gone.whl" in machine.check(code=2, FLASH_ATTN_WHEEL="gone.whl")
    assert "left out because FLASH_ATTN_WHEEL is none" in machine.check(FLASH_ATTN_WHEEL="none")


def test_all_missing_requirements_are_reported_at_once(machine) -> None:
    machine.with_gpus(driver="535.1").lacks("g++").has("df", "printf 'head\\ndisk 1 1 %d 1 /\\n' $((3 * 1048576))")
    shown = machine.check(code=2)
    assert shown.count("setup: error:") == 3
    for message in ("20 GB of free disk space are required", "g++ is required", "535.1 is too old"):
        assert message in shown
    assert "6 GB of free disk space are required" in machine.check("cpu", code=2)


def test_python_comes_from_uv_only_if_none_fits(machine) -> None:
    assert f"python: {sys.version_info[0]}.{sys.version_info[1]}." in machine.check()
    machine.has("python3.11", "exit 1").has("python3", 'echo "Python 3.9.2"; exit 1')
    assert "error: Python 3.11, 3.12 or 3.13 with venv is required, and uv is not installed" in machine.check(code=2)
    assert "uv will install Python 3.11" in machine.has("uv", "exit 0").check()
    assert "error: PYTHON=python3.9: expected" in machine.check(code=2, PYTHON="python3.9")


def test_unknown_arguments_are_rejected(machine) -> None:
    assert "unknown argument 'rocm'; valid: cpu, cuda" in machine.check("rocm", code=2)
