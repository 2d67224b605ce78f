"""What choosing on the test split is worth by itself: the best of k equally good checkpoints, measured on 200 cases.

Papers that choose a checkpoint, a reward or a rate by the test score report the highest of several scores. Its
expectation lies above the true one even where all candidates are equally good. Two numbers bound it, for k candidates
and CASES test cases:

- `run`: checkpoints are made of this run's own results. For every case, a checkpoint's score is that of one of the
  run's policies (and one of its trials), drawn at random; each policy's mean is first moved to the mean of all, so that
  no candidate is better than another. Cases on which all policies agree then give every checkpoint the same: it is the
  disagreement between them that is chosen among.
- `binomial`: each case is solved by chance with the policies' mean, independently. Exact, from the distribution of the
  largest of k.

The gain is the expected highest score minus the mean that all candidates share, in points of a hundred. Of the run's it
has the range in which 95% of such choices fall. A published gain that was chosen on the test split has to be larger
than this.

Inputs:  RUN/policies.json and RUN/eval/<policy>/results.jsonl of two or more policies of one model and mode, the start
among them only where
         training made fewer than two.
Outputs: RUN/analysis/selection_on_test.{csv,txt,png,svg,pdf}. Paper:   none; the split that choices were made on is not
stated by the papers on this data (PROTOCOL.md).

Example: python -m analysis.selection_on_test outputs/cpu
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binom

from analysis.figures.artifact import Artifact, caption_text, script_main
from analysis.figures.style import PALETTE, figure_style, new_figure
from analysis.run_data.labels import METRICS
from analysis.run_data.run_folder import Missing, NotPlanned, Run
from env_construction.environment.jsonl import run_main
from eval.suites.results import case_values, scored

CASES = 200
CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
DRAWS = 2000
DRAWN = ("solve_f1", "answer_correct")


def candidates_of(run: Run) -> list[str]:
    """The policies that checkpoints are made of: those that RL made of the first model and mode, with their start if
    they are too few.
    """
    first = next((run.roles[name] for name in run.policies if run.roles[name].model), None)
    alike = [
        name
        for name in run.policies
        if first and (run.roles[name].model, run.roles[name].mode) == (first.model, first.mode)
    ]
    trained = [name for name in alike if run.roles[name].algorithm]
    return trained if len(trained) > 1 else alike


def centered_scores(rows: Sequence[Sequence[Any]], metric: str) -> list[np.ndarray]:
    """Per case that all policies have: its scores, shape (policies' trials,), each policy's mean moved to the mean of
    all policies.
    """
    tables = [case_values(scored(policy), metric) for policy in rows]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    if not shared:
        return []
    means = [np.mean([np.mean(table[case]) for case in shared]) for table in tables]
    middle = np.mean(means)
    return [
        np.concatenate([np.array(table[case]) - mean + middle for table, mean in zip(tables, means, strict=True)])
        for case in shared
    ]


def simulated_gains(
    scores: Sequence[np.ndarray], cases: int = CASES, candidates: Sequence[int] = CANDIDATES, seed: int = 0
) -> dict[int, tuple[float, float, float]]:
    """`{k: (mean, 2.5% and 97.5% quantile)}` of the best of k minus the mean, over DRAWS choices. Cases are drawn with
    replacement.

    The gain of a choice is taken against the mean of the same drawn cases: easier cases are no gain.
    """
    generator = np.random.default_rng(seed)
    widest = max(map(len, scores))
    padded = np.stack([np.resize(values, widest) if len(values) < widest else values for values in scores])
    sizes = np.array([len(values) for values in scores])
    case_means = np.array([values.mean() for values in scores])
    gains = {k: np.empty(DRAWS) for k in candidates}
    for draw in range(DRAWS):
        chosen = generator.integers(0, len(scores), cases)
        places = (generator.random((max(candidates), cases)) * sizes[chosen]).astype(int)
        found = padded[chosen, places].mean(axis=1) - case_means[chosen].mean()
        for k in candidates:
            gains[k][draw] = found[:k].max()
    return {
        k: (float(values.mean()), float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975)))
        for k, values in gains.items()
    }


def binomial_gain(mean: float, k: int, cases: int = CASES) -> float:
    """The expected largest of k independent shares of `cases` cases solved with probability `mean`, minus `mean`."""
    counts = np.arange(cases + 1)
    largest = np.diff(binom.cdf(counts, cases, mean) ** k, prepend=0.0)
    return float(largest @ counts / cases - mean)


def build(run: Run) -> list[Artifact]:
    """Raises Missing without two policies that were measured on the same cases."""
    names = candidates_of(run)
    if len(names) < 2:
        reason = "fewer than two policies of one model and mode were measured on the same cases"
        raise Missing(reason) if len(run.roles) > 3 else NotPlanned(reason)
    rows: list[dict[str, Any]] = []
    for metric in DRAWN:
        scores = centered_scores([run.rows(name) for name in names], metric)
        if not scores:
            continue
        mean = float(np.mean([values.mean() for values in scores]))
        within = float(np.mean([values.var() for values in scores]))
        found = simulated_gains(scores)
        for k in CANDIDATES:
            gain, low, high = (100 * value for value in found[k])
            rows.append(
                {
                    "metric": metric,
                    "candidates": k,
                    "cases": CASES,
                    "gain_points": gain,
                    "gain_points_low": low,
                    "gain_points_high": high,
                    "binomial_gain_points": 100 * binomial_gain(min(1.0, max(0.0, mean)), k),
                    "mean": mean,
                    "variance_within_cases": within,
                    "policies": len(names),
                    "n": len(scores),
                }
            )
    if not rows:
        raise Missing("the policies share no case with a score")
    eight = {row["metric"]: row["gain_points"] for row in rows if row["candidates"] == 8}
    caption = caption_text("selection_on_test", gain=f"{eight.get('solve_f1', 0.0):.1f}", cases=CASES, n=rows[0]["n"])
    note = caption_text("selection_note", policies=len(names), draws=DRAWS) + " " + run.faults_text()
    return [
        Artifact(
            "selection_on_test", "What choosing on the test split is worth", caption, rows, _figure(rows), note=note
        )
    ]


def _figure(rows: Sequence[dict[str, Any]]) -> Any:
    figure, [axes] = new_figure(height=3.0)
    with figure_style():
        for color, metric in zip(PALETTE, DRAWN, strict=False):
            mine = [row for row in rows if row["metric"] == metric]
            if not mine:
                continue
            k = [row["candidates"] for row in mine]
            low, high = ([row[f"gain_points_{end}"] for row in mine] for end in ("low", "high"))
            axes.fill_between(k, low, high, color=color, alpha=0.15, linewidth=0)
            axes.plot(k, [row["gain_points"] for row in mine], "o-", color=color, label=f"{METRICS[metric]}, this run")
            binomial = [row["binomial_gain_points"] for row in mine]
            axes.plot(k, binomial, "o--", color=color, markerfacecolor="white", label=f"{METRICS[metric]}, binomial")
        axes.set_xscale("log", base=2)
        axes.set_xticks(CANDIDATES, [str(k) for k in CANDIDATES])
        axes.set_xlabel("candidates, all equally good")
        axes.set_ylabel("best score − true score, points")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.legend(loc="upper left")
    return figure


def main() -> int:
    return script_main(__doc__, "analysis.selection_on_test", build)


if __name__ == "__main__":
    run_main(main)
