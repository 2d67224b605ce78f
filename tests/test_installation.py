"""`pip install .`: the wheel has every package and data file, and its dependencies match the imports of the code."""

import ast
import configparser
import importlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("env_construction", "reward", "train", "serving", "eval", "analysis")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SET_UP_ONLY = {"openrlhf", "vllm", "deepspeed", "bfcl-eval"}
"""Packages that pip cannot install together with the others; setup.sh installs them."""
OTHER_NAMES = {"sklearn": "scikit-learn", "yaml": "pyyaml"}
"""{module: distribution} for modules whose distribution has another name."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout. It is built offline from a copy, because setuptools leaves files behind."""
    folder = tmp_path_factory.mktemp("installation")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "copy" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    built = subprocess.run([*command, "--wheel-dir", folder, folder / "copy"], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_wheel_holds_every_file_of_the_folders_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = {
        str(path.relative_to(ROOT))
        for name in FOLDERS
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert {Path(name).suffix for name in held} >= {".py", ".csv", ".md", ".j2"}


def test_console_scripts_are_functions_that_exist(wheel: zipfile.ZipFile) -> None:
    entries = configparser.ConfigParser()
    entries.read_string(
        wheel.read(next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))).decode()
    )
    scripts = dict(entries["console_scripts"])
    assert set(scripts) == {"ftrl-build", "ftrl-validate", "ftrl-score", "ftrl-eval", "ftrl-serve", "ftrl-export"}
    for target in scripts.values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> frozenset[str]:
    listed = [*PROJECT["dependencies"], *(item for extra in extras for item in PROJECT["optional-dependencies"][extra])]
    return frozenset(canonical(Requirement(item).name) for item in listed)


@cache
def with_dependencies(names: frozenset[str]) -> set[str]:
    """The packages and their transitive dependencies, as far as installed."""
    found, left = set[str](), set(names)
    while left:
        name = left.pop()
        found.add(name)
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        needed = (Requirement(item) for item in required)
        left |= {
            canonical(item.name) for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})
        } - found
    return found


def imported(folder: str) -> dict[str, set[str]]:
    """{distribution: files of the folder that import it}, including imports within functions."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / folder).rglob("*.py"):
        if any(part.endswith("_package") for part in path.parts):
            continue  # exported; its own pyproject.toml says what it needs, and .ci/faces.sh installs that
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - set(FOLDERS):
                found.setdefault(OTHER_NAMES.get(top, canonical(top)), set()).add(str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("env_construction", ()),
        ("reward", ()),
        ("train", ("train",)),
        ("serving", ("train", "serve")),
        ("eval", ("eval",)),
        ("analysis", ("train", "eval")),
    ],
)
def test_each_folder_imports_only_what_its_extra_installs(folder: str, extras: tuple[str, ...]) -> None:
    """Three exceptions: a file that runs on Ray clusters, one that OpenRLHF loads, one that tau2's interpreter runs."""
    elsewhere = {"env_construction/building/workers.py", "reward/openrlhf_reward.py", "eval/tau/tau2_worker.py"}
    missing = {
        name: files - elsewhere
        for name, files in imported(folder).items()
        if name not in with_dependencies(declared(*extras)) | SET_UP_ONLY
    }
    assert not {name: files for name, files in missing.items() if files}


def test_environments_sandbox_and_reward_need_no_torch() -> None:
    heavy = {"torch", "transformers", "ray", "vllm", "openrlhf", "datasets", "lm-eval"}
    assert not with_dependencies(declared()) & heavy
    assert "torch" in declared("train")


def test_every_dependency_has_one_version_in_one_place() -> None:
    listed = [
        *PROJECT["dependencies"],
        *(item for extra in PROJECT["optional-dependencies"].values() for item in extra),
    ]
    assert [item for item in listed if Requirement(item).specifier] == []
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for route in ("cpu", "cuda"):
        text = (ROOT / f"constraints-{route}.txt").read_text(encoding="utf-8")
        pinned = {canonical(name) for name in [*pins, *re.findall(r"^([\w.-]+)==", text, flags=re.MULTILINE), "torch"]}
        assert declared("train", "serve", "eval") - pinned == set()
