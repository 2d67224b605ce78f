"""report.html: the run's summary, verdicts, figures, sortable tables and trajectories in one self-contained file.

Inputs:  RUN/analysis/ as `python -m analysis.all RUN` made it (index.json, CSV, SVG, captions), RUN/manifest.json,
         RUN/eval/<policy>/results.jsonl and RUN/environments/test.jsonl for the trajectory viewer.
Outputs: RUN/report.html. No network: figures, style and script are inside.

Example: python -m analysis.report outputs/cpu
"""

from __future__ import annotations

import argparse
import base64
import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment as TemplateEnvironment
from jinja2 import FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.run_data.claims import claims
from analysis.run_data.intervals import estimate_text, mean_estimate, paired_difference
from analysis.run_data.run_folder import Run, policy_label, read_json
from analysis.run_data.trajectories import viewer_data
from env_construction.environment.jsonl import BadInput, json_text, run_main
from eval.statistics.estimates import p_text

TABLE_ROWS = 300
_SUFFIXES = ("_low", "_high", "_n")
_ARROW = "_arrow"
_FLOOR = "_at_floor"
_WHOLE = ("layer", "n", "step", "epoch", "seed")


@dataclass
class Table:
    """A table for the page: plain cells with the value to sort by."""

    columns: list[str]
    rows: list[list[tuple[str, str]]] = field(default_factory=list)
    left_out: int = 0


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _cell(row: dict[str, str], column: str, usual_n: str) -> tuple[str, str]:
    """`(shown, value to sort by)`; an estimate shows its interval, and its n where that is not the row's usual one; a p-value, its floor."""
    text = row.get(column) or ""
    value = _number(text)
    if value is None or column in _WHOLE:
        return text, text
    shown = f"{value:,.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.3g}"
    low, high, n = (row.get(column + suffix) or "" for suffix in _SUFFIXES)
    if _number(low) is not None and _number(high) is not None:
        digits = 3 if abs(value) < 10 else 1
        shown = f"{value:.{digits}f} [{float(low):.{digits}f}, {float(high):.{digits}f}]"
        shown += f" (n={n})" if n and n != usual_n else ""
    elif n and column + _SUFFIXES[0] in row:  # the paper's own numbers have neither
        shown += " [n/a]"
    elif column + _FLOOR in row:
        shown = p_text(value, row[column + _FLOOR] == "True")
    return f"{shown} {row.get(column + _ARROW) or ''}".strip().replace("-", "−"), text


def read_table(path: Path) -> Table:
    """A CSV as a table: `x`, `x_low`, `x_high`, `x_n`, `x_arrow` become one column, the first n one of its own; empty columns are left out."""
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    columns = list(rows[0]) if rows else []
    parts = {f"{column}{suffix}" for column in columns for suffix in _SUFFIXES if f"{column}_low" in columns}
    parts |= {f"{column}{mark}" for column in columns for mark in (_ARROW, _FLOOR)}
    shown = [column for column in columns if column not in parts and any(row.get(column) for row in rows)]
    counts = [column for column in columns if column in parts and column.endswith("_n")]
    place = next((place for place, column in enumerate(shown) if f"{column}_low" in columns), 0)
    table = Table([column.replace("_", " ") for column in shown], left_out=max(0, len(rows) - TABLE_ROWS))
    for row in rows[:TABLE_ROWS]:
        usual_n = next((row[column] for column in counts if row[column]), "")
        cells = [_cell(row, column, usual_n) for column in shown]
        table.rows.append([*cells[:place], (usual_n, usual_n), *cells[place:]] if counts else cells)
    if counts:
        table.columns.insert(place, "n")
    return table


def data_address(path: Path) -> str:
    """The file as a data: address, so that the page needs nothing beside itself."""
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[path.suffix]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def script_json(value: Any) -> Markup:
    """JSON that can stand inside a <script> element: nothing in it can end the element."""
    text = json_text(value)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def read_sections(analysis: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """`(sections, missing)` from the folder that `analysis.all` wrote. Raises BadInput without one."""
    if not (analysis / "index.json").is_file():
        raise BadInput(f"{analysis / 'index.json'}: no such file; run `python -m analysis.all {analysis.parent}` first")
    index = read_json(analysis / "index.json")
    sections = []
    for entry in index["made"]:
        stem = analysis / entry["name"]
        svg = stem.with_name(entry["name"] + ".svg")
        title, _, caption = stem.with_name(entry["name"] + ".txt").read_text(encoding="utf-8").partition("\n")
        sections.append(
            {
                "name": entry["name"],
                "anchor": entry["name"].replace("+", "p"),
                "title": title,
                "caption": caption.strip(),
                "image": data_address(svg) if svg.is_file() else None,
                "table": read_table(stem.with_name(entry["name"] + ".csv")),
            }
        )
    return sections, list(index["missing"])


HEADLINE_GAPS = ("solve_f1", "answer_correct")


def headline(run: Run) -> list[dict[str, str]]:
    """The figures at the top: Solve-F1 and answer accuracy of each policy, their paired differences to the start, and what they cost."""
    lines = []
    for policy in run.policies:
        rows = run.rows(policy)
        line = {"policy": policy_label(policy)}
        for metric in ("solve_f1", "answer_correct", "solve_p", "solve_r", "calls"):
            found = mean_estimate(rows, metric)
            line[metric] = estimate_text(found) if metric in HEADLINE_GAPS else _short(found.value)
            if metric in HEADLINE_GAPS:
                before = run.rows("start") if "start" in run.policies and policy != "start" else []
                gap = paired_difference(rows, before, metric)
                line[f"{metric}_gap"] = estimate_text(gap, signed=True) if before else ""
                line[f"{metric}_width"] = f"{100 * (found.value or 0):.1f}"
        lines.append(line | {"n": str(mean_estimate(rows, "solve_f1").n)})
    return lines


def _short(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def demonstration_note(run: Run) -> str:
    """What the starting policy was taught on, from warm_start.json: the mixed quality is part of the design."""
    mix = (run.warm_start().get("demonstrations") or {}).get("mix")
    if not mix:
        return ""
    shown = ", ".join(f"{name} {100 * share:.0f}%" for name, share in mix.items())
    return (
        "The starting policy was taught by demonstrations of mixed quality, on purpose: it can copy and write calls, but it behaves "
        f"badly, as a base model might, so that the reward has something to choose between (share of turns: {shown})."
    )


def render(run: Run, analysis: Path) -> str:
    """The whole page as HTML."""
    sections, missing = read_sections(analysis)
    templates = TemplateEnvironment(
        loader=FileSystemLoader(Path(__file__).resolve().parent / "templates"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    manifest = read_json(run.path / "manifest.json") if (run.path / "manifest.json").is_file() else {}
    return templates.get_template("report.html.j2").render(
        run=run.name,
        model=run.model_label(),
        tiny=run.is_tiny,
        demonstrations=demonstration_note(run),
        claims=claims(run, analysis),
        headline=headline(run),
        faults=run.faults_text(),
        sections=sections,
        missing=missing,
        manifest=manifest,
        viewer=script_json(viewer_data(run)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m analysis.report"
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, help="file to write (default: RUN/report.html)")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    out = arguments.out or run.path / "report.html"
    page = render(run, run.path / "analysis")
    partial = out.with_name(out.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(out)
    print(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MB, self-contained)")
    return 0


if __name__ == "__main__":
    run_main(main)
