"""The paper's Table 2 with this run's numbers beside it: every model and metric, intervals, differences, arrows.

Inputs:  analysis/paper_table2.csv (the paper's numbers, percent), RUN/policies.json and
         RUN/eval/<policy>/[<suite>/]summary.json.
Outputs: RUN/analysis/main_table.{csv,md,tex,txt}, for runs with a model of the paper; others have results_table. An
         arrow says in which direction training moved a number from its own start: in our rows only where the interval
         of the difference excludes 0. The difference to the paper is given only where model, data and prompts are the
         paper's (`comparable`).
Paper:   Table 2 (section 4.2). Avg is the plain mean of the eight metric columns.

Example: python -m analysis.main_table outputs/cpu
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.figures.artifact import Artifact, caption_text, latex_table, markdown_table, script_main
from analysis.run_data.intervals import paired_difference
from analysis.run_data.run_folder import NotPlanned, Run
from env_construction.environment.jsonl import run_main
from eval.statistics.estimates import Estimate

PAPER_FILE = Path(__file__).resolve().parent / "paper_table2.csv"


@dataclass(frozen=True)
class Column:
    """A metric of Table 2 and where this repository's summaries hold it: the published scoring, since the paper's cells
    have it.

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
    """`(family, version)` of the paper's row that a policy reproduces; None for what the paper does not have."""
    role = run.roles[policy]
    family = _FAMILIES.get(role.model)
    if family is None:
        return None
    qwen3 = family.startswith("Qwen3")
    thinking = role.mode == "thinking"
    if role.role == "start":
        return family, ("Reasoning" if thinking else "Non-Reasoning") if qwen3 else "Instruct"
    if role.role != "trained" or role.algorithm not in _VERSIONS:
        return None
    mode = (" reasoning" if thinking else " non-reasoning") if qwen3 else ""
    return family + mode, _VERSIONS[role.algorithm]


def comparable(run: Run, suite: str) -> bool:
    """Whether a number may be held against the paper's: on the authors' environments, and on RoTBench, which brings its
    prompts.

    The prompts of ToolHop and of tau-bench's user are in words of our own, so those numbers are no comparison.
    """
    return suite == "rotbench" or (suite == "environments" and run.configuration().get("data") == "published")


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


def _our_arrow(run: Run, policy: str, column: Column) -> str:
    """An arrow where the paired difference to the start is shown, none where its interval holds 0."""
    start = run.start_of(policy, column.suite)
    if start is None:
        return ""
    name = "reward" if column.suite == "tau_bench" else column.metric
    gap = paired_difference(run.rows(policy, column.suite), run.rows(start, column.suite), name)
    return "" if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high else "↑" if gap.low > 0 else "↓"


def table_rows(run: Run) -> list[dict[str, Any]]:
    """The paper's rows, then ours; each metric with arrow, ours with interval, n and, where comparable, difference to
    the paper.
    """
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
    for policy in [name for name in run.policies if run.roles[name].role in ("start", "trained")]:
        pair = counterpart(run, policy)
        theirs = next((row for row in paper if pair == (row["family"], row["version"])), None)
        label = run.label(policy)
        head, _, tail = label.rpartition(": ")
        line = {"source": f"run {run.name}", "model": head or run.model_label(), "version": tail}
        values = []
        for column in COLUMNS:
            mine = our_estimate(run, policy, column)
            if mine is None or mine.value is None:
                continue
            values.append(mine.value)
            line |= {
                column.key: mine.value,
                f"{column.key}_low": mine.low,
                f"{column.key}_high": mine.high,
                f"{column.key}_n": mine.n,
                f"{column.key}_arrow": _our_arrow(run, policy, column),
            }
            if theirs is not None and comparable(run, column.suite):
                line[f"{column.key}_minus_paper"] = mine.value - theirs[column.key]
        rows.append(line | {"avg": sum(values) / len(values) if len(values) == len(COLUMNS) else None})
    return rows


def _cells(row: dict[str, Any]) -> list[str]:
    cells = []
    for column in COLUMNS:
        value = row.get(column.key)
        if value is None:
            cells.append("–")
            continue
        text = f"{value:.1f}"
        if f"{column.key}_minus_paper" in row:
            text += f" ({row[f'{column.key}_minus_paper']:+.1f})".replace("-", "−")
        text += f" {row[f'{column.key}_arrow']}" if row[f"{column.key}_arrow"] else ""
        if f"{column.key}_low" in row:
            text += f" [{row[f'{column.key}_low']:.1f}, {row[f'{column.key}_high']:.1f}]"
        cells.append(text)
    average = row.get("avg")
    return [*cells, "–" if average is None else f"{average:.1f}"]


def build(run: Run) -> list[Artifact]:
    """Raises NotPlanned for a run without a model of the paper: its numbers would invite a comparison that means
    nothing.
    """
    if not any(counterpart(run, policy) for policy in run.policies):
        raise NotPlanned("no model of the paper was evaluated in this run (bash run_all.sh --profile paper)")
    rows = table_rows(run)
    mine = [row for row in rows if row["source"] != "paper"]
    absent = [column.label for column in COLUMNS if not any(column.key in row for row in mine)]
    compared = [column.label for column in COLUMNS if any(f"{column.key}_minus_paper" in row for row in mine)]
    n = max((row.get("solve_f1_n") or 0 for row in mine), default=0)
    caption = caption_text("main_table", n=n)
    note = caption_text("main_note", absent=", ".join(absent), compared=", ".join(compared))
    note += " " + "".join(run.faults_text(suite) for suite in dict.fromkeys(column.suite for column in COLUMNS))
    columns = ["Model", "Version", *(column.label for column in COLUMNS), "Avg"]
    table = markdown_table(
        columns, [[f"{row['model']} ({row['source']})", row["version"], *_cells(row)] for row in rows]
    )
    ours = {(row["model"], row["version"]) for row in mine}
    families = {pair[0] for name in run.policies if (pair := counterpart(run, name))}
    kept = [
        row
        for row in rows
        if row["source"] != "paper" or row["model"] in families or (row["model"], row["version"]) in ours
    ]
    latex = latex_table(columns, [[row["model"], f"{row['version']} ({row['source']})", *_cells(row)] for row in kept])
    return [
        Artifact(
            "main_table",
            "The paper's Table 2, and this run",
            caption,
            rows,
            texts={".md": table, ".tex": latex},
            note=note,
        )
    ]


def main() -> int:
    return script_main(__doc__, "analysis.main_table", build)


if __name__ == "__main__":
    run_main(main)
