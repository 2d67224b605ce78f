"""The same training with several seeds: how much of a gain is the seed's luck, and the mean over seeds with its
interval.

Inputs:  RUN/policies.json and RUN/eval/<policy>/results.jsonl of policies that differ in the seed alone
         (`run_all.sh --train-seed N`).
Outputs: RUN/analysis/training_seeds.{csv,txt,md,png,svg,pdf}: per policy and seed the paired difference to its start in
         Solve-F1, answer accuracy, Solve-P, Solve-R and calls; per policy the mean over seeds with two 95% intervals,
         since they answer two questions: `over seeds` (Student's t over the seeds' differences: another seed, the same
         test cases) and `over cases` (over cases of the seeds' mean: other test cases, the same seeds).
Paper:   none; the paper and its users report one run each, without seeds.

Example: python -m analysis.training_seeds outputs/cpu
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.figures.artifact import Artifact, caption_text, markdown_table, script_main
from analysis.figures.style import GREY, figure_style, new_figure, role_style, shared_legend
from analysis.run_data.intervals import EMPTY, estimate_row, estimate_text, paired_difference, row_estimate
from analysis.run_data.labels import METRICS
from analysis.run_data.run_folder import Missing, NotPlanned, Run
from env_construction.environment.jsonl import run_main
from eval.statistics.estimates import Estimate
from eval.statistics.intervals import student_interval

DRAWN = ("solve_f1", "answer_correct")


def interval_over_seeds(differences: Sequence[float]) -> Estimate:
    """Mean and 95% interval of Student's t over one difference a seed; EMPTY with fewer than two seeds."""
    if len(differences) < 2:
        return EMPTY
    values = np.asarray(differences, dtype=float)
    found = student_interval(values)
    return Estimate(float(values.mean()), found.low, found.high, len(values))


def pooled_rows(run: Run, policies: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of all seeds as if they were trials of the same cases: a case's seeds are then averaged and drawn
    together.
    """
    return [{**row, "trial": f"{policy}:{row['trial']}"} for policy in policies for row in run.rows(policy)]


def seed_rows(run: Run, base: str, seeds: Mapping[int, str]) -> list[dict[str, Any]]:
    """One row per seed, then one for the mean over seeds."""
    before = run.rows(str(run.start_of(base)))
    rows: list[dict[str, Any]] = []
    for seed, policy in seeds.items():
        row: dict[str, Any] = {"policy": base, "label": run.label(base), "seed": seed}
        for metric in METRICS:
            row |= estimate_row(f"{metric}_minus_start", paired_difference(run.rows(policy), before, metric))
        rows.append(row)
    mean: dict[str, Any] = {"policy": base, "label": run.label(base), "seed": "mean"}
    together = pooled_rows(run, list(seeds.values()))
    for metric in METRICS:
        single = [row[f"{metric}_minus_start"] for row in rows]
        mean |= estimate_row(f"{metric}_minus_start", paired_difference(together, before, metric))
        mean |= estimate_row(f"{metric}_minus_start_over_seeds", interval_over_seeds(single))
    return [*rows, mean]


def build(run: Run) -> list[Artifact]:
    """Raises Missing unless a policy was trained with two seeds or more."""
    repeated = {base: seeds for base, seeds in run.training_seeds().items() if len(seeds) > 1 and run.start_of(base)}
    if not repeated:
        reason = "no training was repeated with another seed (run_all.sh --train-seed 1)"
        raise Missing(reason) if run.planned("seed") else NotPlanned(reason)
    rows = [row for base, seeds in repeated.items() for row in seed_rows(run, base, seeds)]
    counts = sorted({len(seeds) for seeds in repeated.values()})
    caption = caption_text("training_seeds", seeds=" or ".join(map(str, counts)), n=rows[0]["solve_f1_minus_start_n"])
    note = caption_text("seeds_note") + " " + run.faults_text()
    figure = _figure(run, rows)
    return [Artifact("training_seeds", "Other training seeds", caption, rows, figure, {".md": _markdown(rows)}, note)]


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        cells = [str(row["label"]), str(row["seed"])]
        cells += [estimate_text(row_estimate(row, f"{metric}_minus_start"), signed=True) for metric in METRICS]
        over = [row_estimate(row, f"{metric}_minus_start_over_seeds") for metric in DRAWN]
        lines.append(cells + [estimate_text(found, signed=True) if row["seed"] == "mean" else "–" for found in over])
    columns = ["Policy", "Seed", *(f"{label} − start" for label in METRICS.values())]
    return markdown_table(columns + [f"{METRICS[metric]} − start, over seeds" for metric in DRAWN], lines)


def _figure(run: Run, rows: Sequence[Mapping[str, Any]]) -> Any:
    bases = list(dict.fromkeys(row["policy"] for row in rows))
    figure, axes_list = new_figure(1, len(DRAWN), height=1.3 + 0.5 * len(bases), share_y=True)
    with figure_style():
        for axes, metric in zip(axes_list, DRAWN, strict=True):
            key = f"{metric}_minus_start"
            for place, base in enumerate(bases):
                color, mark, _ = role_style(run.roles[base])
                mine = [row for row in rows if row["policy"] == base and row["seed"] != "mean" and row[key] is not None]
                single = "one seed" if place == 0 else None
                axes.plot(
                    [row[key] for row in mine],
                    [-place + 0.15] * len(mine),
                    mark,
                    color=color,
                    markerfacecolor="white",
                    label=single,
                )
                mean = next(row for row in rows if row["policy"] == base and row["seed"] == "mean")
                over = row_estimate(mean, f"{key}_over_seeds")
                if over.value is not None and over.low is not None and over.high is not None:
                    axes.plot([over.low, over.high], [-place - 0.15] * 2, color=color, linewidth=1.6)
                    axes.plot(
                        [over.value],
                        [-place - 0.15],
                        mark,
                        color=color,
                        label="mean of the seeds" if place == 0 else None,
                    )
            axes.axvline(0, color=GREY, linewidth=0.8)
            axes.set_xlabel(f"{METRICS[metric]} − start")
            axes.grid(axis="y", visible=False)
        axes_list[0].set_yticks([-place for place in range(len(bases))], [run.label(base) for base in bases])
        shared_legend(figure, axes_list)
    return figure


def main() -> int:
    return script_main(__doc__, "analysis.training_seeds", build)


if __name__ == "__main__":
    run_main(main)
