"""The paper's Table 2 with this run's numbers beside it: every model and metric, intervals, differences, arrows.

Inputs:  analysis/paper_table2.csv (the paper's numbers, percent) and RUN/eval/<policy>/[<suite>/]summary.json.
Outputs: RUN/analysis/main_table.{csv,md,tex,txt,png,svg}. An arrow says in which direction training moved a number from the
         untrained model of the same row group; "difference" is ours minus the paper's, given only for the paper's own models.
Paper:   Table 2 (section 4.2). Avg is the plain mean of the eight metric columns.

Example: python -m analysis.main_table outputs/cpu
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.figures.artifact import Artifact, markdown_table, script_main
from analysis.figures.style import BLACK, BLUE, VERMILION, figure_style, new_figure, policy_style
from analysis.run_data.run_folder import Missing, Run, policy_label
from env_construction.environment.jsonl import run_main
from eval.statistics.estimates import Estimate

PAPER_FILE = Path(__file__).resolve().parent / "paper_table2.csv"


@dataclass(frozen=True)
class Column:
    """A metric of Table 2 and where this repository's summaries hold it: the published scoring, since the paper's cells have it.

    tau-bench is the exception: its own semantics count, not the inverted check of the published code.
    """

    key: str
    label: str
    suite: str
    metric: str


COLUMNS = (
    Column("solve_p", "Solve-P", "environments", "solve_p"),
    Column("solve_r", "Solve-R", "environments", "solve_r"),
    Column("solve_f1", "Solve-F1", "environments", "solve_f1"),
    Column("toolhop_ac", "ToolHop AC", "toolhop", "ac_published"),
    Column("tau_bench_pass1", "tau-bench pass^1", "tau_bench", "pass^1"),
    Column("rotbench_ts", "RoTBench TS", "rotbench", "ts_published"),
    Column("rotbench_pi", "RoTBench PI", "rotbench", "pi_published"),
    Column("rotbench_cf", "RoTBench CF", "rotbench", "cf_published"),
)
_FAMILIES = {"qwen2.5-7b": "Qwen2.5-7B", "qwen2.5-14b": "Qwen2.5-14B", "qwen3-8b": "Qwen3-8B", "qwen3-14b": "Qwen3-14B"}
_VERSIONS = {"grpo": "FTRL-GRPO", "reinforce++": "FTRL-Reinforce++"}


def paper_rows() -> list[dict[str, Any]]:
    """Table 2: `group`, `family`, `version`, one float per metric, `avg`; percent."""
    with PAPER_FILE.open(encoding="utf-8", newline="") as handle:
        rows = csv.DictReader(line for line in handle if not line.startswith("#"))
        texts = ("group", "family", "version")
        return [{key: value if key in texts else float(value) for key, value in row.items()} for row in rows]


def untrained_row(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The untrained model that a trained row of the paper started from; None for a row that was not trained."""
    if not row["version"].startswith("FTRL-"):
        return None
    family, _, mode = row["family"].partition(" ")
    version = {"": "Instruct", "non-reasoning": "Non-Reasoning", "reasoning": "Reasoning"}[mode]
    return next(item for item in rows if item["family"] == family and item["version"] == version)


def counterpart(run: Run, policy: str) -> tuple[str, str] | None:
    """`(family, version)` of the paper's row that a policy reproduces; None for a model that the paper does not have."""
    configuration = run.configuration()
    model, thinking = str(configuration.get("model") or ""), bool(configuration.get("thinking"))
    algorithm = policy
    for name in _FAMILIES:
        for mode in ("plain", "thinking"):
            if policy.startswith(f"{name}-{mode}-"):
                model, thinking, algorithm = name, mode == "thinking", policy[len(f"{name}-{mode}-") :]
    family = _FAMILIES.get(model.lower())
    if family is None:
        return None
    qwen3 = family.startswith("Qwen3")
    if algorithm == "start":
        return family, ("Reasoning" if thinking else "Non-Reasoning") if qwen3 else "Instruct"
    if algorithm not in _VERSIONS:
        return None
    mode = (" reasoning" if thinking else " non-reasoning") if qwen3 else ""
    return family + mode, _VERSIONS[algorithm]


def our_estimate(run: Run, policy: str, column: Column) -> Estimate | None:
    """A metric from the policy's summary, in percent; None where the suite was not run."""
    found = run.summary(policy, column.suite).get("metrics", {}).get(column.metric)
    if not found or found.get("value") is None:
        return None
    value, low, high = (None if found[key] is None else 100 * found[key] for key in ("value", "low", "high"))
    return Estimate(value, low, high, found["n"])


def _arrow(value: float, before: float | None) -> str:
    if before is None or value == before:
        return ""
    return "↑" if value > before else "↓"


def table_rows(run: Run) -> list[dict[str, Any]]:
    """The paper's rows, then ours; each metric with arrow, ours with interval, n and difference to the paper."""
    paper = paper_rows()
    rows: list[dict[str, Any]] = []
    for row in paper:
        before = untrained_row(row, paper)
        line: dict[str, Any] = {"source": "paper", "model": row["family"], "version": row["version"]}
        line["untrained"] = f"{before['family']} {before['version']}" if before else None
        for column in COLUMNS:
            line[column.key] = row[column.key]
            line[f"{column.key}_arrow"] = _arrow(row[column.key], before[column.key] if before else None)
        rows.append(line | {"avg": row["avg"]})
    for policy in [name for name in run.policies if name not in ("random", "oracle")]:
        pair = counterpart(run, policy)
        theirs = next((row for row in paper if pair == (row["family"], row["version"])), None)
        line = {"source": f"run {run.name}", "model": run.model_label(), "version": policy_label(policy)}
        values = []
        for column in COLUMNS:
            mine = our_estimate(run, policy, column)
            if mine is None or mine.value is None:
                continue
            values.append(mine.value)
            start = None if policy == "start" else our_estimate(run, "start", column)
            line |= {
                column.key: mine.value,
                f"{column.key}_low": mine.low,
                f"{column.key}_high": mine.high,
                f"{column.key}_n": mine.n,
                f"{column.key}_arrow": _arrow(mine.value, start.value if start else None),
            }
            if theirs is not None:
                line[f"{column.key}_minus_paper"] = mine.value - theirs[column.key]
        rows.append(line | {"avg": sum(values) / len(values) if len(values) == len(COLUMNS) else None})
    return rows


def _cells(row: dict[str, Any], latex: bool) -> list[str]:
    arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$"} if latex else {"↑": " ↑", "↓": " ↓"}
    cells = []
    for column in COLUMNS:
        value = row.get(column.key)
        if value is None:
            cells.append("--" if latex else "–")
            continue
        text = f"{value:.2f}"
        if row.get(f"{column.key}_low") is not None:
            text += f" [{row[f'{column.key}_low']:.1f}, {row[f'{column.key}_high']:.1f}]"
        if f"{column.key}_minus_paper" in row:
            text += f" ({row[f'{column.key}_minus_paper']:+.1f})"
        cells.append(text + arrows.get(row[f"{column.key}_arrow"], ""))
    average = row.get("avg")
    return [*cells, ("--" if latex else "–") if average is None else f"{average:.2f}"]


def _latex(rows: list[dict[str, Any]]) -> str:
    head = " & ".join(["Model", "Version", *(column.label.replace("^", r"\^{}") for column in COLUMNS), "Avg"])
    lines = [r"\begin{tabular}{ll" + "r" * (len(COLUMNS) + 1) + "}", r"\toprule", head + r" \\", r"\midrule"]
    source = rows[0]["source"]
    for row in rows:
        if row["source"] != source:
            lines.append(r"\midrule")
            source = row["source"]
        names = [re.sub(r"([#$%&_{}])", r"\\\1", str(row[key])) for key in ("model", "version")]
        lines.append(" & ".join([*names, *_cells(row, latex=True)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _figure(run: Run, rows: list[dict[str, Any]]) -> Any:
    paper = [row for row in rows if row["source"] == "paper"]
    names = list(dict.fromkeys(row["untrained"] for row in paper if row["untrained"]))
    starts = {f"{row['model']} {row['version']}": row for row in paper}
    mine = [
        (policy, our_estimate(run, policy, COLUMNS[2])) for policy in run.policies if policy not in ("random", "oracle")
    ]
    figure, (left, right) = new_figure(1, 2, width=10.0, height=4.2, share_y=True)
    with figure_style():
        for place, name in enumerate(names):
            start = starts[name]["solve_f1"]
            left.plot(place, start, "o", color=BLACK, label="untrained" if place == 0 else None)
            for row in (row for row in paper if row["untrained"] == name):
                grpo = row["version"] == "FTRL-GRPO"
                x = place + (0.14 if grpo else -0.14)
                left.plot([place, x], [start, row["solve_f1"]], color="#BBBBBB", linewidth=1, zorder=0)
                label = None if place else ("GRPO" if grpo else "REINFORCE++")
                left.plot(x, row["solve_f1"], "s" if grpo else "^", color=BLUE if grpo else VERMILION, label=label)
        left.set_xticks(
            range(len(names)), [name.replace(" ", "\n", 1) for name in names], rotation=35, ha="right", fontsize=8
        )
        left.set(title="The paper's models (no intervals published)", ylabel="Solve-F1 (%)", ylim=(0, 100))
        left.legend(loc="upper left")
        for place, (policy, found) in enumerate(mine):
            if found is not None and found.value is not None and found.low is not None and found.high is not None:
                colour, mark, _ = policy_style(policy, place)
                right.errorbar(
                    [place],
                    [found.value],
                    yerr=[[max(0.0, found.value - found.low)], [max(0.0, found.high - found.value)]],
                    fmt=mark,
                    color=colour,
                    capsize=3,
                )
        right.set_xticks(
            range(len(mine)), [policy_label(policy) for policy, _ in mine], rotation=35, ha="right", fontsize=8
        )
        right.set(title=f"This run: {run.model_label()} (95% intervals)", xlim=(-0.6, len(mine) - 0.4))
    return figure


def build(run: Run) -> list[Artifact]:
    """Raises Missing when nothing was evaluated."""
    if not run.policies:
        raise Missing("no policy was evaluated: eval/<policy>/summary.json is not there")
    rows = table_rows(run)
    mine = [row for row in rows if row["source"] != "paper"]
    if not mine:
        raise Missing("only floor and ceiling were evaluated")
    absent = [column.label for column in COLUMNS if not any(column.key in row for row in mine)]
    own = any(f"{column.key}_minus_paper" in row for row in mine for column in COLUMNS)
    n = max((row.get("solve_f1_n") or 0 for row in mine), default=0)
    caption = (
        f"Table 2 of the paper (percent; its numbers, published without intervals) with this run's {run.model_label()} beside it: n = {n} test environments, 95% "
        "intervals over cases in brackets; arrows compare with the untrained start. "
        + (
            "Differences to the paper stand in parentheses. "
            if own
            else "This model is not in the paper and the environments are not the paper's, so no difference to it is given: only the direction of a gain can be compared. "
        )
        + (f"Not run here: {', '.join(absent)}. " if absent else "")
        + "ToolHop and RoTBench by the published scoring, tau-bench by its own. "
        + "".join(run.faults_text(suite) for suite in dict.fromkeys(column.suite for column in COLUMNS))
        + "Source: analysis/paper_table2.csv and eval/<policy>/summary.json."
    )
    table = markdown_table(
        ["Model", "Version", *(column.label for column in COLUMNS), "Avg"],
        [[f"{row['model']} ({row['source']})", row["version"], *_cells(row, latex=False)] for row in rows],
    )
    texts = {".md": table, ".tex": _latex(rows)}
    return [Artifact("main_table", "The paper's Table 2, and this run", caption, rows, _figure(run, rows), texts)]


def main() -> int:
    return script_main(__doc__, "analysis.main_table", build)


if __name__ == "__main__":
    run_main(main)
