"""Any two or more runs side by side: every policy's scores, and paired differences where the test environments are the
same.

Inputs:  RUN/eval/<policy>/results.jsonl of each run.
Outputs: in --out, compare_runs.{csv,txt,md,png,svg}. The first run is the reference of the differences.

Example: python -m analysis.compare_runs outputs/cpu outputs/cpu-seed2 --out outputs/compared
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.figures.artifact import Artifact, caption_text, markdown_table
from analysis.figures.style import MARKS, PALETTE, figure_style, new_figure, shared_legend
from analysis.run_data.intervals import estimate_row, estimate_text, mean_estimate, paired_difference, row_estimate
from analysis.run_data.labels import METRICS as SHOWN
from analysis.run_data.run_folder import Run
from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main

METRICS = (*SHOWN, "completion_tokens")
DRAWN = ("solve_f1", "answer_correct")


def comparison_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per policy and run; differences to the first run over shared cases, where there are any."""
    policies = list(dict.fromkeys(policy for run in runs for policy in run.policies))
    rows = []
    for policy in policies:
        for run in (run for run in runs if policy in run.policies):
            row: dict[str, Any] = {"policy": policy, "label": run.label(policy), "run": run.name}
            for metric in METRICS:
                row |= estimate_row(metric, mean_estimate(run.rows(policy), metric))
                if run is not runs[0] and policy in runs[0].policies:
                    gap = paired_difference(run.rows(policy), runs[0].rows(policy), metric)
                    if gap.n:
                        row |= estimate_row(f"{metric}_minus_first", gap)
            rows.append(row)
    return rows


def compare(runs: Sequence[Run]) -> Artifact:
    """Raises BadInput for fewer than two runs, two of the same name, or a run without results."""
    if len(runs) < 2:
        raise BadInput("compare_runs needs two runs or more")
    if len({run.name for run in runs}) < len(runs):
        raise BadInput(f"two of the runs have the same name: {', '.join(run.name for run in runs)}")
    for run in runs:
        if not run.policies:
            raise BadInput(f"{run.path}: no policy was evaluated in this run")
    rows = comparison_rows(runs)
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    labels = [next(row["label"] for row in rows if row["policy"] == policy) for policy in policies]
    figure, axes_list = new_figure(1, len(DRAWN), height=1.2 + 0.4 * len(policies), share_y=True)
    with figure_style():
        for index, run in enumerate(runs):
            shift = 0.5 * (index / max(1, len(runs) - 1) - 0.5)
            color, mark = PALETTE[index % len(PALETTE)], MARKS[index % len(MARKS)]
            for axes, metric in zip(axes_list, DRAWN, strict=True):
                chosen = [row for row in rows if row["run"] == run.name and row[metric] is not None]
                y = [-policies.index(row["policy"]) - shift for row in chosen]
                axes.plot([row[metric] for row in chosen], y, mark, color=color, label=run.name)
                for place, row in zip(y, chosen, strict=True):
                    axes.plot([row[f"{metric}_low"], row[f"{metric}_high"]], [place, place], color=color, linewidth=1.3)
        for axes, metric in zip(axes_list, DRAWN, strict=True):
            axes.set(xlabel=SHOWN[metric], xlim=(-0.03, 1.03))
            axes.grid(axis="y", visible=False)
        axes_list[0].set_yticks([-place for place in range(len(policies))], labels)
        shared_legend(figure, axes_list)
    paired = any("solve_f1_minus_first" in row for row in rows)
    counts = sorted({row["solve_f1_n"] for row in rows})
    n = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    caption = caption_text("compare_runs", runs=len(runs), n=n, first=runs[0].name, paired=paired)
    columns = [
        "Policy",
        "Run",
        "n",
        *SHOWN.values(),
        *(f"{SHOWN[metric]} − {runs[0].name} (paired)" for metric in DRAWN),
    ]
    lines = [
        [row["label"], row["run"], str(row["solve_f1_n"])]
        + [estimate_text(row_estimate(row, metric)) for metric in SHOWN]
        + [estimate_text(row_estimate(row, f"{metric}_minus_first"), signed=True) for metric in DRAWN]
        for row in rows
    ]
    note = "".join(f"{run.name}: {said}" for run in runs if (said := run.faults_text()))
    table = {".md": markdown_table(columns, lines)}
    return Artifact("compare_runs", "Runs side by side", caption, rows, figure, table, note)


def main() -> int:
    parser = ScriptParser(__doc__, "python -m analysis.compare_runs")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of two runs or more")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    arguments = parser.parse_args()
    artifact = compare([Run.open(path) for path in arguments.runs])
    print(f"{artifact.title}: wrote {', '.join(str(path) for path in artifact.write(arguments.out))}")
    return 0


if __name__ == "__main__":
    run_main(main)
