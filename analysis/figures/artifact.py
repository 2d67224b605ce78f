"""What every analysis script makes: a table (CSV), a figure (PNG, SVG and PDF) and a caption (TXT), under one name.

A script has `build(run) -> list[Artifact]`, pure but for reading, and hands it to `script_main`; `analysis.all` calls
the same `build`. Where the data for it are not there, `build` raises `Missing` with the reason, which is reported, not
hidden.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment as TemplateEnvironment
from jinja2 import FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from analysis.figures.style import save_figure
from analysis.run_data.run_folder import Missing, Run
from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput

_TEMPLATES = TemplateEnvironment(
    loader=FileSystemLoader(Path(__file__).resolve().parents[1] / "templates"),
    undefined=StrictUndefined,
    autoescape=False,
)


def caption_text(name: str, **values: Any) -> str:
    """The caption `name` of templates/captions.j2: what the reader sees and what it means; the script's docstring has
    the method.
    """
    module: Any = _TEMPLATES.get_template("captions.j2").module
    return " ".join(str(getattr(module, name)(**values)).split())


@dataclass
class Artifact:
    """One table or figure. `rows` become the CSV; `note` is its footnote: method, source, what was lost to faults.

    `texts` are further files by suffix, such as `{".md": "..."}`.
    """

    name: str
    title: str
    caption: str
    rows: Sequence[Mapping[str, Any]]
    figure: Figure | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def write(self, folder: Path) -> list[Path]:
        """Write all files of the artifact into `folder`; returns their paths. The caption file: title, caption,
        footnote.
        """
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / self.name
        written = [write_csv(stem.with_name(self.name + ".csv"), self.rows)]
        caption = stem.with_name(self.name + ".txt")
        parts = [self.title, " ".join(self.caption.split()), " ".join(self.note.split())]
        caption.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
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


_LATEX = {"−": "$-$", "–": "--", "≥": r"$\geq$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "< ": "$<$ "}


def latex_text(text: str) -> str:
    """Plain text as LaTeX prints it."""
    text = re.sub(r"([#$%&_{}])", r"\\\1", text).replace("^", r"\^{}")
    for sign, written in _LATEX.items():
        text = text.replace(sign, written)
    return text


def latex_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A booktabs table that is as wide as the text at most (packages booktabs and adjustbox); the first column is
    left-aligned.

    A cell's interval stands below its value in small print.
    """
    lines = [r"% \usepackage{booktabs,adjustbox,makecell}", r"\begin{adjustbox}{max width=\linewidth}"]
    lines += [r"\begin{tabular}{l" + "r" * (len(columns) - 1) + "}", r"\toprule"]
    lines += [" & ".join(latex_text(column) for column in columns) + r" \\", r"\midrule"]
    for row in rows:
        cells = []
        for cell in row:
            value, bracket, interval = latex_text(cell).partition(" [")
            cells.append(rf"\makecell[r]{{{value}\\[-2pt]\scriptsize [{interval}}}" if bracket else value)
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{adjustbox}", ""])


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
