"""An exported package carries all that its modules import."""

from __future__ import annotations

import ast
from pathlib import Path

from serving.exports.packages import CARRIED, ROOT

FOLDERS = {path.split("/")[0] for path in CARRIED}


def imported(path: Path) -> set[str]:
    """The modules of this project that a file imports when it is loaded, also inside of functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} if (ROOT / f"{node.module.replace('.', '/')}.py").is_file() else set()
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in FOLDERS}


def test_every_module_that_a_carried_one_imports_is_carried() -> None:
    files = {
        file.relative_to(ROOT)
        for path in CARRIED
        for file in ([ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("*.py"))
    }
    missing = {
        f"{file}: {name}"
        for file in files
        for name in imported(ROOT / file)
        if (module := Path(f"{name.replace('.', '/')}.py")) not in files and (ROOT / module).is_file()
    }
    assert files and not missing
