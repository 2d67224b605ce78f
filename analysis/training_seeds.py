"""The same training with several seeds: how much of a gain is the seed's luck, and the mean over seeds with its interval.

Inputs:  RUN/eval/<policy>/results.jsonl and RUN/eval/<policy>-seed<N>/results.jsonl (`run_all.sh --train-seed N`), RUN/eval/start.
Outputs: RUN/analysis/training_seeds.{csv,txt,md,png,svg}: per policy and seed the paired difference to the start in Solve-P, Solve-R and
         Solve-F1; per policy the mean over seeds with two 95% intervals, since they answer two questions:
         `over seeds` (Student's t over the seeds' differences: another seed, the same test cases) and
         `over cases` (over cases of the seeds' mean: other test cases, the same seeds).
Paper:   none; the paper and its users report one run each, without seeds.

Example: python -m analysis.training_seeds outputs/cpu
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.figures.artifact import Artifact, markdown_table, script_main
from analysis.figures.style import BLACK, figure_style, interval_bars, new_figure, policy_style
from analysis.run_data.intervals import EMPTY, estimate_row, estimate_text, paired_difference, row_estimate
from analysis.run_data.run_folder import Missing, Run, policy_label
from env_construction.environment.jsonl import run_main
from eval.statistics.estimates import Estimate
from eval.statistics.intervals import student_interval

METRICS = {"solve_f1": "Solve-F1", "solve_p": "Solve-P", "solve_r": "Solve-R"}


def interval_over_seeds(differences: Sequence[float]) -> Estimate:
    """Mean and 95% interval of Student's t over one difference a seed; EMPTY with fewer than two seeds."""
    if len(differences) < 2:
        return EMPTY
    values = np.asarray(differences, dtype=float)
    found = student_interval(values)
    return Estimate(float(values.mean()), found.low, found.high, len(values))


def pooled_rows(run: Run, policies: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of all seeds as if they were trials of the same cases: a case's seeds are then averaged and drawn together."""
    return [{**row, "trial": f"{policy}:{row['trial']}"} for policy in policies for row in run.rows(policy)]


def seed_rows(run: Run, base: str, seeds: Mapping[int, str]) -> list[dict[str, Any]]:
    """One row per seed, then one for the mean over seeds."""
    before = run.rows("start")
    rows: list[dict[str, Any]] = []
    for seed, policy in seeds.items():
        row: dict[str, Any] = {"policy": base, "seed": seed}
        for metric in METRICS:
            row |= estimate_row(f"{metric}_minus_start", paired_difference(run.rows(policy), before, metric))
        rows.append(row)
    mean: dict[str, Any] = {"policy": base, "seed": "mean"}
    together = pooled_rows(run, list(seeds.values()))
    for metric in METRICS:
        single = [row[f"{metric}_minus_start"] for row in rows]
        mean |= estimate_row(f"{metric}_minus_start", paired_difference(together, before, metric))
        mean |= estimate_row(f"{metric}_minus_start_over_seeds", interval_over_seeds(single))
    return [*rows, mean]


def build(run: Run) -> list[Artifact]:
    """Raises Missing unless a policy was trained with two seeds or more."""
    run.need("start")
    repeated = {base: seeds for base, seeds in run.training_seeds().items() if len(seeds) > 1}
    if not repeated:
        raise Missing("no training was repeated with another seed (run_all.sh --train-seed 1)")
    rows = [row for base, seeds in repeated.items() for row in seed_rows(run, base, seeds)]
    counts = ", ".join(f"{policy_label(base)} {len(seeds)} seeds" for base, seeds in repeated.items())
    caption = (
        f"Paired difference in Solve-F1 to the start, one point for each training seed ({counts}); environments, start and the "
        f"n = {rows[0]['solve_f1_minus_start_n']} test cases are the same. Thin bars: 95% interval over cases of one seed. Black: mean over "
        "seeds with Student's 95% interval over seeds, which covers the luck of the training and not that of the cases; the interval over cases of the "
        f"mean is in the table. {run.faults_text()}Source: eval/<policy>/results.jsonl."
    )
    return [
        Artifact("training_seeds", "Several training seeds", caption, rows, _figure(rows), {".md": _markdown(rows)})
    ]


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        cells = [policy_label(str(row["policy"])), str(row["seed"])]
        cells += [estimate_text(row_estimate(row, f"{metric}_minus_start"), signed=True) for metric in METRICS]
        over = row_estimate(row, "solve_f1_minus_start_over_seeds")
        lines.append([*cells, estimate_text(over, signed=True) if row["seed"] == "mean" else "–"])
    columns = ["Policy", "Seed", *(f"{label} − start" for label in METRICS.values()), "Solve-F1 − start, over seeds"]
    return markdown_table(columns, lines)


def _figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    bases = list(dict.fromkeys(row["policy"] for row in rows))
    figure, (axes,) = new_figure(height=3.8, width=1.8 + 1.9 * max(len(bases), 2))
    key = "solve_f1_minus_start"
    with figure_style():
        for place, base in enumerate(bases):
            colour, mark, _ = policy_style(base, place)
            mine = [row for row in rows if row["policy"] == base and row["seed"] != "mean"]
            x = [place + 0.5 * (index + 1) / (len(mine) + 1) - 0.4 for index in range(len(mine))]
            axes.plot(x, [row[key] for row in mine], mark, color=colour)
            interval_bars(
                axes, x, [row[key] for row in mine], [row[f"{key}_low"] for row in mine],
                [row[f"{key}_high"] for row in mine], colour,
            )  # fmt: skip
            mean = next(row for row in rows if row["policy"] == base and row["seed"] == "mean")
            over = row_estimate(mean, f"{key}_over_seeds")
            axes.plot([place + 0.25], [mean[f"{key}_over_seeds"]], "D", color=BLACK)
            interval_bars(axes, [place + 0.25], [over.value], [over.low], [over.high], BLACK)
        axes.axhline(0, color=BLACK, linewidth=0.8)
        axes.set_xticks(range(len(bases)), [policy_label(base).replace(", ", ",\n") for base in bases])
        axes.set(xlim=(-0.55, len(bases) - 0.4), ylabel="Solve-F1 − start")
        axes.grid(axis="x", visible=False)
    return figure


def main() -> int:
    return script_main(__doc__, "analysis.training_seeds", build)


if __name__ == "__main__":
    run_main(main)
