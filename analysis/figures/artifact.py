"""What every analysis script makes: a table (CSV), a figure (PNG and SVG) and a caption (TXT), under one name.

A script has `build(run) -> list[Artifact]`, pure but for reading, and hands it to `script_main`; `analysis.all` calls the
same `build`. Where the data for it are not there, `build` raises `Missing` with the reason, which is reported, not hidden.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analysis.figures.style import save_figure
from analysis.run_data.run_folder import Missing, Run
from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput


@dataclass
class Artifact:
    """One table or figure. `rows` become the CSV; `texts` are further files by suffix, such as `{".md": "..."}`."""

    name: str
    title: str
    caption: str
    rows: Sequence[Mapping[str, Any]]
    figure: Figure | None = None
    texts: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> list[Path]:
        """Write all files of the artifact into `folder`; returns their paths. The caption file's first line is the title."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / self.name
        written = [write_csv(stem.with_name(self.name + ".csv"), self.rows)]
        caption = stem.with_name(self.name + ".txt")
        caption.write_text(f"{self.title}\n\n{' '.join(self.caption.split())}\n", encoding="utf-8")
        written.append(caption)
        for suffix, text in self.texts.items():
            path = stem.with_name(self.name + suffix)
            path.write_text(text, encoding="utf-8")
            written.append(path)
        if self.figure is not None:
            written += save_figure(self.figure, stem)
        return written


def format_cell(value: Any) -> str:
    """A CSV cell: floats with six significant digits, None as the empty string."""
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return str(value)


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows with the union of their keys as columns, in order of first appearance."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([format_cell(row.get(column)) for column in columns])
    return path


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub Markdown table; the first column is left-aligned, the others right-aligned."""
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) - 1)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def script_main(docstring: str | None, module: str, build: Callable[[Run], list[Artifact]]) -> int:
    """The command line of a script that reads one run: `python -m analysis.NAME RUN_DIR [--out DIR]`."""
    parser = ScriptParser(docstring, f"python -m {module}")
    parser.add_argument("run", type=Path, help="folder of the run, such as outputs/cpu")
    parser.add_argument("--out", type=Path, help="where to write (default: RUN/analysis)")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    out = arguments.out or run.path / "analysis"
    try:
        artifacts = build(run)
    except Missing as missing:
        raise BadInput(f"nothing to show: {missing}") from None
    for artifact in artifacts:
        written = artifact.write(out)
        print(f"{artifact.title}: wrote {', '.join(str(path) for path in written)}")
    return 0
