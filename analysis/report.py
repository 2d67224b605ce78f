"""Write report.html: the findings of a run in one self-contained page.

The order suits a newcomer: the main finding, the terms, the summary table, verdicts on the paper's claims, one section
per figure with its tables, example episodes, missing results, and how the run was produced.

Inputs:  RUN/analysis/ as written by `python -m analysis.all RUN` (index.json, CSV, SVG, captions), RUN/manifest.json,
         RUN/eval/<policy>/results.jsonl and RUN/environments/test.jsonl for the episode viewer.
Outputs: RUN/report.html. It needs no network: figures, style and script are embedded.

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
"""With more trained policies than this, the first sentence gives counts instead of names."""
_SUFFIXES = ("_low", "_high", "_n")
_FLOOR = "_at_floor"
_ARROW = "_arrow"
_WHOLE = ("layer", "n", "step", "epoch", "seed", "percent")
_HIDDEN = ("policy", "thinking_policy", "base", "start")  # the label column names the policy
_WORDS = {
    **METRICS,
    "format_rate": "Turns whose calls parse",
    "tool_rate": "Right tool",
    "argument_rate": "Right argument",
    "tokens_per_solved": "Tokens per solved sub-question",
    "p": "p",
    "p_holm": "p (Holm)",
    "minus_full": "minus Solve-F1 reward",
}
"""Parts of a column's name."""
_HEADINGS = {  # complete names of columns
    "label": "Policy",
    "by": "Grouped by",
    "point": "Episodes",
    "minus_start": "Change from the start",
    "minus_trained": "Change from the trained model",
    "attempts": "Due to number of calls",
    "format": "Due to calls that parse",
    "tool": "Due to right tool",
    "argument": "Due to right argument",
    "attempts_start": "Number of calls, start",
    "attempts_after": "Number of calls, after",
    "format_start": "Calls that parse, start",
    "format_after": "Calls that parse, after",
    "tool_start": "Right tool, start",
    "tool_after": "Right tool, after",
    "argument_start": "Right argument, start",
    "argument_after": "Right argument, after",
    "solve_f1_gain": "Change in Solve-F1",
    "difference_p": "Difference, p",
    "difference_p_holm": "Difference, p (Holm)",
    "one_sided_low": "One-sided lower bound",
    "non_inferior": "Non-inferior",
    "elements": "Number of weights",
    "relative_change": "Relative norm of the change",
    "elementwise_change": "Elementwise mean change",
    "mean_absolute_change": "Mean absolute change",
    "changed_share": "Share changed",
    "change_over_floor": "Change / rounding floor",
    "p_value": "p",
    "smallest_possible_p": "Smallest possible p",
    "share": "Share",
    "share_lost": "Share of the gain lost",
    "lead": "Difference to the best other group",
    "random_minus": "Loss beyond random weights",
    "put_back_changed": "Restored weights that had changed",
    "lower_mlp_share": "Restored weights in lower MLPs",
    "lower_mlp_of_all": "All weights in lower MLPs",
    "gain": "Gain of the policy",
    "toolhop_ac": "ToolHop AC",
    "tau_bench_pass1": "tau-bench pass^1",
    "rotbench_ts": "RoTBench TS",
    "rotbench_pi": "RoTBench PI",
    "rotbench_cf": "RoTBench CF",
}
_SIGNED = ("minus", "gain", "difference", "lead")
_SIGNED_COLUMNS = ("attempts", "format", "tool", "argument")


@dataclass
class Table:
    """A table for the page. Each cell is `(shown text, value to sort by)`."""

    columns: list[str]
    rows: list[list[tuple[str, str]]] = field(default_factory=list)
    left_out: int = 0


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def heading(column: str) -> str:
    """The heading of a CSV column: `solve_f1_minus_start` becomes `Solve-F1 − start`."""
    if found := _HEADINGS.get(column) or _WORDS.get(column):
        return found
    for metric in sorted(_WORDS, key=len, reverse=True):
        if column.startswith(f"{metric}_"):
            rest = column[len(metric) + 1 :].replace("_over_seeds", ", over seeds")
            tail = _WORDS.get(rest, rest.replace("_", " ")).replace(" minus ", " − ")
            return f"{_WORDS[metric]}{' −' if tail.startswith('minus ') else ','} {tail.removeprefix('minus ')}"
    words = column.replace("_minus_", " − ").replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def _cell(row: dict[str, str], column: str, usual_n: str) -> tuple[str, str]:
    """`(shown, value to sort by)`. An estimate shows its interval, and its n if that differs from the row's n."""
    text = row.get(column) or ""
    value = _number(text)
    if value is None or column in _WHOLE:
        return SCENARIOS.get(text, {"True": "yes", "False": "no"}.get(text, text)), text
    is_p = column.endswith(("_p", "_p_holm", "p_value")) and column not in METRICS
    signed = column in _SIGNED_COLUMNS or any(part in column for part in _SIGNED)
    sign = "+" if signed and not is_p else ""
    shown = f"{value:{sign},.0f}" if value == int(value) and abs(value) >= 10 else f"{value:{sign}.3g}"
    low, high, n = (row.get(column + suffix) or "" for suffix in _SUFFIXES)
    if is_p:
        shown = p_text(value, row.get(column + _FLOOR) == "True")
    elif _number(low) is not None and _number(high) is not None:
        digits = 3 if abs(value) < 10 else 1
        shown = f"{value:{sign}.{digits}f} [{float(low):{sign}.{digits}f}, {float(high):{sign}.{digits}f}]"
        shown += f" (n={n})" if n and n != usual_n else ""
    elif n and column + _SUFFIXES[0] in row:  # the paper's own numbers have no n and no interval
        shown += " [n/a]"
    elif "e" in shown:
        shown = f"{value:.2g}" if abs(value) >= 1e-4 else f"{value:.1e}"
    return f"{shown} {row.get(column + _ARROW) or ''}".strip().replace("-", "−"), text


def read_table(path: Path) -> Table:
    """A CSV as a table.

    `x`, `x_low`, `x_high`, `x_n` and `x_arrow` become one column. The first n gets a separate column. Empty columns are
    left out.
    """
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    columns = list(rows[0]) if rows else []
    parts = {f"{column}{suffix}" for column in columns for suffix in _SUFFIXES if f"{column}_low" in columns}
    parts |= {f"{column}{mark}" for column in columns for mark in (_ARROW, _FLOOR)} | (
        set(_HIDDEN) if "label" in columns else set()
    )
    shown = [column for column in columns if column not in parts and any(row.get(column) for row in rows)]
    shown.sort(key=lambda column: column != "label")  # the policy first; the sort is stable for the others
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
    """The file as a data: URL, so that the page needs no other file."""
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[path.suffix]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def script_json(value: Any) -> Markup:
    """JSON that is safe inside a <script> element: nothing in it can end the element."""
    text = json_text(value)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def read_sections(analysis: Path) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, str]]]]:
    """`(sections, index)` from the folder that `analysis.all` wrote. Raises BadInput without one.

    A section has a figure and one or more tables. An artifact without a figure joins the section before it if the same
    script made both. A title "WHAT: POLICY" that comes again for other policies is one section; the page folds the
    others, its `others`.
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
        section = {"script": entry["script"], "anchor": anchor, "image": image, "tables": [part], "others": [], **part}
        sections.append(section)
    return _folded(sections), {"missing": index["missing"], "not_planned": index.get("not_planned", [])}


def _folded(sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first: dict[str, dict[str, Any]] = {}
    for section in sections:
        what, colon, _ = section["title"].partition(": ")
        key = what if colon else section["anchor"]
        if key in first:
            first[key]["others"].append(section)
        else:
            first[key] = section
    return list(first.values())


HEADLINE_GAPS = ("solve_f1", "answer_correct")
TOOL_VERBS = {1: "improved", -1: "worsened", 0: "did not clearly change"}
ANSWER_VERBS = {1: "raised", -1: "lowered", 0: "did not clearly change"}


def headline(run: Run) -> list[dict[str, str]]:
    """Rows of the summary table: scores of each policy, paired differences to the start, and calls per case."""
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
    """The main finding in one sentence: changes of tool use and answers. Empty if no trained policy has a start."""
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
            f"Of {len(changes)} trained policies, {moves[0].count(1)} use tools better than their start and "
            f"{moves[0].count(-1)} use them worse; {moves[1].count(1)} answer more questions correctly and "
            f"{moves[1].count(-1)} answer fewer."
        )
    said = []
    for policy, (tool_use, answers) in changes.items():
        tools = f"{TOOL_VERBS[_moved(tool_use)]} tool use (Solve-F1 {estimate_text(tool_use, 2, signed=True)})"
        share = f"{ANSWER_VERBS[_moved(answers)]} the share of correct answers"
        joint = "but" if _moved(answers) == -_moved(tool_use) != 0 else "and"
        said.append(f"{run.label(policy)} {tools} {joint} {share} ({estimate_text(answers, 2, signed=True)})")
    return "; ".join(said) + "."


def _moved(gap: Estimate) -> int:
    return 0 if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high else 1 if gap.low > 0 else -1


def _short(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def demonstration_note(run: Run) -> str:
    """The demonstrations that the start was trained on, from warm_start.json. Their mixed quality is by design."""
    mix = (run.warm_start().get("demonstrations") or {}).get("mix")
    if not mix:
        return ""
    shown = ", ".join(f"{name} {100 * share:.0f}%" for name, share in mix.items())
    return (
        "The start was trained on demonstrations of mixed quality, on purpose: it can write valid calls, but it makes "
        "mistakes as a base model might, so that the reward can select among good and bad behavior "
        f"(share of turns: {shown})."
    )


def render(run: Run, analysis: Path) -> str:
    """The complete page as HTML."""
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
