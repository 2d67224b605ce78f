"""report.html: what a run found, in one sentence and then in detail, in one self-contained file.

The order is a newcomer's: what was found, the terms, the summary table, verdicts on the paper's claims, a section per
figure with its tables, trajectories to read, what is missing, how it was made.

Inputs:  RUN/analysis/ as `python -m analysis.all RUN` made it (index.json, CSV, SVG, captions), RUN/manifest.json,
         RUN/eval/<policy>/results.jsonl and RUN/environments/test.jsonl for the trajectory viewer.
Outputs: RUN/report.html. No network: figures, style and script are inside.

Example: python -m analysis.report outputs/cpu
"""

from __future__ import annotations

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
from analysis.run_data.labels import METRICS, SCENARIOS
from analysis.run_data.run_folder import Missing, Run, read_json
from analysis.run_data.trajectories import viewer_data
from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, json_text, run_main
from eval.statistics.estimates import Estimate, p_text

TABLE_ROWS = 300
SPELLED_OUT = 3
"""More trained policies than this are counted in the first sentence, not named."""
_SUFFIXES = ("_low", "_high", "_n")
_FLOOR = "_at_floor"
_ARROW = "_arrow"
_WHOLE = ("layer", "n", "step", "epoch", "seed", "percent")
_HIDDEN = ("policy", "thinking_policy", "base", "start")  # where a label stands beside it
_WORDS = {
    **METRICS,
    "format_rate": "Turns whose calls parse",
    "tool_rate": "Right tool",
    "argument_rate": "Right argument",
    "label": "Policy",
    "solve_f1_gain": "Change of Solve-F1",
    "p": "p",
    "p_holm": "p (Holm)",
    "elementwise_change": "Elementwise mean change",
    "changed_share": "Share changed",
    "relative_change": "Relative norm of the change",
    "by": "Grouped by",
}
_SIGNED = ("minus", "gain", "difference", "attempts", "lead")


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


def heading(column: str) -> str:
    """A column of a CSV in words: `solve_f1_minus_start` becomes `Solve-F1 − start`."""
    if column in _WORDS:
        return _WORDS[column]
    for metric in sorted(_WORDS, key=len, reverse=True):
        if column.startswith(f"{metric}_"):
            rest = column[len(metric) + 1 :]
            tail = _WORDS.get(rest, rest.replace("_", " "))
            return (
                f"{_WORDS[metric]}{' −' if rest.startswith('minus_') else ','} {tail.removeprefix('minus ')}".replace(
                    " minus ", " − "
                )
            )
    words = column.replace("_minus_", " − ").replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def _cell(row: dict[str, str], column: str, usual_n: str) -> tuple[str, str]:
    """`(shown, value to sort by)`; an estimate shows its interval, and its n where that is not the row's usual one."""
    text = row.get(column) or ""
    value = _number(text)
    if value is None or column in _WHOLE:
        return SCENARIOS.get(text, {"True": "yes", "False": "no"}.get(text, text)), text
    sign = "+" if any(part in column for part in _SIGNED) and not column.endswith(("_p", "_p_holm")) else ""
    shown = f"{value:{sign},.0f}" if value == int(value) and abs(value) >= 10 else f"{value:{sign}.3g}"
    low, high, n = (row.get(column + suffix) or "" for suffix in _SUFFIXES)
    if column.endswith(("_p", "_p_holm", "p_value")):
        shown = p_text(value, row.get(column + _FLOOR) == "True")
    elif _number(low) is not None and _number(high) is not None:
        digits = 3 if abs(value) < 10 else 1
        shown = f"{value:{sign}.{digits}f} [{float(low):{sign}.{digits}f}, {float(high):{sign}.{digits}f}]"
        shown += f" (n={n})" if n and n != usual_n else ""
    elif n and column + _SUFFIXES[0] in row:  # the paper's own numbers have neither
        shown += " [n/a]"
    elif "e" in shown:
        shown = f"{value:.2g}" if abs(value) >= 1e-4 else f"{value:.1e}"
    return f"{shown} {row.get(column + _ARROW) or ''}".strip().replace("-", "−"), text


def read_table(path: Path) -> Table:
    """A CSV as a table: `x`, `x_low`, `x_high`, `x_n`, `x_arrow` become one column, the first n one of its own; empty
    columns are left out.
    """
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    columns = list(rows[0]) if rows else []
    parts = {f"{column}{suffix}" for column in columns for suffix in _SUFFIXES if f"{column}_low" in columns}
    parts |= {f"{column}{mark}" for column in columns for mark in (_ARROW, _FLOOR)} | (
        set(_HIDDEN) if "label" in columns else set()
    )
    shown = [column for column in columns if column not in parts and any(row.get(column) for row in rows)]
    shown.sort(key=lambda column: column != "label")  # the policy first; the order of the others stays
    counts = [column for column in columns if column in parts and column.endswith("_n")]
    place = next((place for place, column in enumerate(shown) if f"{column}_low" in columns), 0)
    table = Table([heading(column) for column in shown], left_out=max(0, len(rows) - TABLE_ROWS))
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


def read_sections(analysis: Path) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, str]]]]:
    """`(sections, index)` from the folder that `analysis.all` wrote. Raises BadInput without one.

    A section has a figure and one or more tables: an artifact without a figure joins the one before it, if the same
    script made both.
    """
    if not (analysis / "index.json").is_file():
        raise BadInput(f"{analysis / 'index.json'}: no such file; run `python -m analysis.all {analysis.parent}` first")
    index = read_json(analysis / "index.json")
    sections: list[dict[str, Any]] = []
    for entry in index["made"]:
        stem = analysis / entry["name"]
        svg = stem.with_name(entry["name"] + ".svg")
        text = stem.with_name(entry["name"] + ".txt").read_text(encoding="utf-8")
        title, caption, note = [*text.strip().split("\n\n"), "", ""][:3]
        table = read_table(stem.with_name(entry["name"] + ".csv"))
        part = {"name": entry["name"], "title": title, "caption": caption, "note": note, "table": table}
        if not svg.is_file() and sections and sections[-1]["script"] == entry["script"]:
            sections[-1]["tables"].append(part)
            continue
        image = data_address(svg) if svg.is_file() else None
        anchor = entry["name"].replace("+", "p")
        sections.append({"script": entry["script"], "anchor": anchor, "image": image, "tables": [part], **part})
    return sections, {"missing": index["missing"], "not_planned": index.get("not_planned", [])}


HEADLINE_GAPS = ("solve_f1", "answer_correct")


def headline(run: Run) -> list[dict[str, str]]:
    """The figures at the top: Solve-F1 and answer accuracy of each policy, their paired differences to the start, and
    what they cost.
    """
    lines = []
    for policy in run.policies:
        rows = run.rows(policy)
        line = {"policy": run.label(policy)}
        start = run.start_of(policy)
        before = run.rows(start) if start else []
        for metric in METRICS:
            found = mean_estimate(rows, metric)
            line[metric] = estimate_text(found) if metric in HEADLINE_GAPS else _short(found.value)
            if metric in HEADLINE_GAPS:
                line[f"{metric}_gap"] = (
                    estimate_text(paired_difference(rows, before, metric), signed=True) if before else ""
                )
                line[f"{metric}_width"] = f"{100 * (found.value or 0):.1f}"
        lines.append(line | {"n": str(mean_estimate(rows, "solve_f1").n)})
    return lines


def found_sentence(run: Run) -> str:
    """What the run found, in one sentence with the gain and what it cost; empty without a trained policy beside its
    start.
    """
    try:
        pairs = [(start, policy) for start, policies in run.compared().items() for policy in policies]
    except Missing:
        return ""
    changes = {
        policy: [paired_difference(run.rows(policy), run.rows(start), metric) for metric in HEADLINE_GAPS]
        for start, policy in pairs
    }
    if len(changes) > SPELLED_OUT:
        moves = [[_moved(found[place]) for found in changes.values()] for place in range(len(HEADLINE_GAPS))]
        return (
            f"Of {len(changes)} trained policies, {moves[0].count(1)} use tools better than their start and {moves[0].count(-1)} worse; "
            f"{moves[1].count(1)} answer more questions and {moves[1].count(-1)} answer fewer."
        )
    said = []
    for policy, (tool_use, answers) in changes.items():
        both = f"{_verb(tool_use)} tool use (Solve-F1 {estimate_text(tool_use, 2, signed=True)})"
        joint = "but" if _moved(answers) == -_moved(tool_use) != 0 else "and"
        said.append(
            f"{run.label(policy)} {both} {joint} {_verb(answers)} the share of right answers ({estimate_text(answers, 2, signed=True)})"
        )
    return "; ".join(said) + "."


def _moved(gap: Estimate) -> int:
    return 0 if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high else 1 if gap.low > 0 else -1


def _verb(gap: Estimate) -> str:
    return {1: "raised", -1: "lowered", 0: "did not clearly change"}[_moved(gap)]


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
    sections, index = read_sections(analysis)
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
        found=found_sentence(run),
        sections=sections,
        missing=index["missing"],
        not_planned=index["not_planned"],
        manifest=manifest,
        viewer=script_json(viewer_data(run)),
    )


def main() -> int:
    parser = ScriptParser(__doc__, "python -m analysis.report")
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
