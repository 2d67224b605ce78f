"""Any two or more runs side by side: every policy's scores, and paired differences where the test environments are the same.

Inputs:  RUN/eval/<policy>/results.jsonl of each run.
Outputs: in --out, compare_runs.{csv,txt,md,png,svg}. The first run is the reference of the differences.

Example: python -m analysis.compare_runs outputs/cpu outputs/cpu-seed2 --out outputs/compared
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.figures.artifact import Artifact, markdown_table
from analysis.figures.style import MARKS, PALETTE, figure_style, new_figure
from analysis.run_data.intervals import estimate_row, estimate_text, mean_estimate, paired_difference, row_estimate
from analysis.run_data.run_folder import Run, policy_label
from env_construction.environment.jsonl import BadInput, run_main

METRICS = ("solve_p", "solve_r", "solve_f1", "answer_correct", "calls", "completion_tokens")


def comparison_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per policy and run; differences to the first run over shared cases, where there are any."""
    policies = list(dict.fromkeys(policy for run in runs for policy in run.policies))
    rows = []
    for policy in policies:
        for run in (run for run in runs if policy in run.policies):
            row: dict[str, Any] = {"policy": policy, "run": run.name}
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
    figure, (axes,) = new_figure(width=8.0, height=1.4 + 0.55 * len(policies))
    with figure_style():
        for index, run in enumerate(runs):
            chosen = [row for row in rows if row["run"] == run.name]
            shift = 0.5 * (index / max(1, len(runs) - 1) - 0.5)
            colour, mark = PALETTE[index % len(PALETTE)], MARKS[index % len(MARKS)]
            y = [-policies.index(row["policy"]) - shift for row in chosen]
            axes.plot([row["solve_f1"] for row in chosen], y, mark, color=colour, label=run.name)
            for place, row in zip(y, chosen, strict=True):
                axes.plot([row["solve_f1_low"], row["solve_f1_high"]], [place, place], color=colour, linewidth=1.3)
        axes.set_yticks([-place for place in range(len(policies))], [policy_label(policy) for policy in policies])
        axes.set(xlabel="Solve-F1 (mean over cases, 95% interval)", xlim=(-0.03, 1.03))
        axes.grid(axis="y", visible=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    paired = any("solve_f1_minus_first" in row for row in rows)
    caption = (
        f"Solve-F1 of {len(runs)} runs ({', '.join(run.name for run in runs)}), n = {min(row['solve_f1_n'] for row in rows)} to {max(row['solve_f1_n'] for row in rows)} test "
        f"environments each, 95% intervals over cases. {f'Differences to {runs[0].name} are paired over the cases that both have. ' if paired else 'The runs share no test case, so no paired difference is given. '}"
        f"{''.join(f'{run.name}: {said}' for run in runs if (said := run.faults_text()))}Source: eval/<policy>/results.jsonl of each run."
    )
    columns = ["Policy", "Run", "n", "Solve-P", "Solve-R", "Solve-F1", f"Solve-F1 − {runs[0].name} (paired)"]
    lines = [
        [policy_label(row["policy"]), row["run"], str(row["solve_f1_n"])]
        + [estimate_text(row_estimate(row, metric)) for metric in ("solve_p", "solve_r", "solve_f1")]
        + [estimate_text(row_estimate(row, "solve_f1_minus_first"), signed=True)]
        for row in rows
    ]
    return Artifact("compare_runs", "Runs side by side", caption, rows, figure, {".md": markdown_table(columns, lines)})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python -m analysis.compare_runs",
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of two runs or more")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    arguments = parser.parse_args()
    artifact = compare([Run.open(path) for path in arguments.runs])
    print(f"{artifact.title}: wrote {', '.join(str(path) for path in artifact.write(arguments.out))}")
    return 0


if __name__ == "__main__":
    run_main(main)
