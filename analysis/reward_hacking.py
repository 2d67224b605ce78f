"""Does the policy learn to exploit the matching? Scores under `published` and `strict` matching, over training.

The episodes that the policy played at the start of each epoch (train environments), and the final evaluation (test
environments), are replayed turn by turn through the same rollout, tools run again, once with each matching. A gap that
grows over training would mean that the policy learns to please the loose matching rather than to solve.

Inputs:  RUN/train/<algorithm>/epoch<k>/trajectories.jsonl, RUN/eval/<policy>/results.jsonl, RUN/environments/test.jsonl.
Outputs: RUN/analysis/reward_hacking.{csv,txt,png,svg}.
Paper:   the defects of the published matching (paper/README.md, table of defects, 4 to 7).

Example: python -m analysis.reward_hacking outputs/cpu
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from analysis.figures.artifact import Artifact, script_main
from analysis.figures.style import figure_style, interval_bars, new_figure, policy_style
from analysis.run_data.intervals import estimate_row, estimate_text, mean_estimate, paired_difference
from analysis.run_data.run_folder import Missing, Run, is_ablation, is_control, policy_label
from env_construction.environment.jsonl import read_jsonl, run_main
from env_construction.environment.matching import MATCHES
from env_construction.environment.schema import Environment
from eval.statistics.estimates import Estimate
from train.policies.rollout import play
from train.policies.specs import load_policy
from train.stages.faults import faults_text

MOST_EPISODES = 400  # of one epoch: enough for an interval of about 0.03, and a bounded time


def rescored(environments: Sequence[Environment], recorded: Path, match: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Recorded turns played again under a matching, first trial only: rows and the texts of the faults.

    Rows are `id`, `outcome`, `solve_f1`, `reward` (mean over turns). Episodes that were too long or ran out of turns end
    so again, with their score. One that a fault ends is played once more; one that ends so twice is lost, and has no row.
    """
    policy, limit = load_policy(f"replay:{recorded}"), _turn_limit(recorded)
    episodes = play(policy, environments, match=match, max_turns=limit)
    ended = {episode.id for episode in episodes if episode.outcome == "fault"}
    if ended:
        once_more = [environment for environment in environments if environment.id in ended]
        episodes = [episode for episode in episodes if episode.id not in ended]
        episodes += play(policy, once_more, match=match, max_turns=limit)
    rows = [
        {
            "id": episode.id,
            "outcome": episode.outcome,
            "solve_f1": episode.score.solve_f1,
            "reward": sum(turn.reward for turn in episode.turns) / len(episode.turns) if episode.turns else 0.0,
        }
        for episode in episodes
        if episode.outcome != "fault"
    ]
    return rows, [episode.fault for episode in episodes if episode.outcome == "fault"]


def _turn_limit(recorded: Path) -> int:
    """The limit of turns that the recorded episodes ran into; one more than the longest where none did."""
    longest = reached = 0
    for _, row in read_jsonl(recorded):
        turns = row["turns"] if isinstance(row.get("turns"), list) else row.get("turn_scores") or ()
        longest = max(longest, len(turns))
        reached = max(reached, len(turns) if row.get("outcome") == "max_turns" else 0)
    return reached or longest + 1


def _points(run: Run) -> list[tuple[str, str, list[Environment], Path]]:
    """`(algorithm, point, environments, file of recorded turns)` of everything that can be replayed."""
    found = []
    for algorithm, epochs in run.epochs.items():
        if is_ablation(algorithm) or is_control(algorithm):
            continue
        for epoch in epochs:
            path = epoch.path / "trajectories.jsonl"
            if path.is_file():
                starts: dict[str, Environment] = {}
                for number, row in read_jsonl(path, required=("id", "environment")):
                    if len(starts) < MOST_EPISODES:
                        starts.setdefault(row["id"], Environment.from_record(row["environment"], f"{path}:{number}"))
                found.append((algorithm, f"epoch {epoch.number}", list(starts.values()), path))
        test = run.environments("test")
        if algorithm in run.policies and test:
            cases = dict.fromkeys(str(row["id"]) for row in run.rows(algorithm))
            path = run.path / "eval" / algorithm / "results.jsonl"
            found.append((algorithm, "test", [test[case] for case in cases if case in test], path))
    return found


def build(run: Run) -> list[Artifact]:
    """Raises Missing without recorded trajectories."""
    points = _points(run)
    if not any(point.startswith("epoch") for _, point, _, _ in points):
        raise Missing("train/<algorithm>/epoch<k>/trajectories.jsonl is not there")
    rows: list[dict[str, Any]] = []
    gaps: dict[tuple[str, str], list[dict[str, Any]]] = {}
    lost: list[str] = []
    replayed = 0
    for algorithm, point, environments, path in tqdm(points, desc="replay", unit="set", disable=None, leave=False):
        scores, faults = {}, {}
        for match in MATCHES:
            scores[match], faults[match] = rescored(environments, path, match)
        row: dict[str, Any] = {"algorithm": algorithm, "point": point}
        row["too_long"] = sum(item["outcome"] == "too_long" for item in scores["published"])
        row |= {f"faults_{match}": len(faults[match]) for match in MATCHES}
        lost += [text for match in MATCHES for text in faults[match]]
        replayed += len(MATCHES) * len(environments)
        for match in MATCHES:
            for metric in ("solve_f1", "reward"):
                row |= estimate_row(f"{metric}_{match}", mean_estimate(scores[match], metric))
        row |= estimate_row("solve_f1_gap", paired_difference(scores["published"], scores["strict"], "solve_f1"))
        strict = {item["id"]: item["solve_f1"] for item in scores["strict"]}
        gaps[algorithm, point] = [
            {"id": item["id"], "gap": item["solve_f1"] - strict[item["id"]]}
            for item in scores["published"]
            if item["id"] in strict
        ]
        rows.append(row)
    growth = _growth(gaps)
    said = f"{text}. " if (text := faults_text(lost, replayed, "replayed episodes")) else ""
    caption = (
        "The same recorded turns scored with the published matching (substring) and with strict matching (whole tokens, errors never solve, maximum matching): "
        f"Solve-F1 at the start of each epoch (train environments, sampled) and of the final policy (test environments, greedy), n = {', '.join(str(row['solve_f1_gap_n']) for row in rows)} "
        f"episodes. Bars: 95% intervals over cases. Growth of the gap published − strict over the epochs: {growth}. {said}Source: train/<algorithm>/epoch<k>/trajectories.jsonl, "
        "eval/<policy>/results.jsonl, tools run again."
    )
    return [Artifact("reward_hacking", "Published against strict matching over training", caption, rows, _figure(rows))]


def _growth(gaps: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    sentences = []
    for algorithm in dict.fromkeys(name for name, _ in gaps):
        epochs = [point for name, point in gaps if name == algorithm and point.startswith("epoch")]
        if len(epochs) > 1:
            change: Estimate = paired_difference(gaps[algorithm, epochs[-1]], gaps[algorithm, epochs[0]], "gap")
            sentences.append(f"{policy_label(algorithm)} {estimate_text(change, signed=True)} (same environments)")
    return "; ".join(sentences) or "not known with one epoch"


def _figure(rows: list[dict[str, Any]]) -> Any:
    algorithms = list(dict.fromkeys(row["algorithm"] for row in rows))
    figure, axes_list = new_figure(1, len(algorithms), width=max(5.5, 3.4 * len(algorithms)), height=3.6, share_y=True)
    with figure_style():
        for axes, algorithm in zip(axes_list, algorithms, strict=True):
            chosen = [row for row in rows if row["algorithm"] == algorithm]
            for match, shift in zip(MATCHES, (-0.06, 0.06), strict=True):
                colour = policy_style("grpo" if match == "published" else "reinforce++")[0]
                trained = [place for place, row in enumerate(chosen) if row["point"] != "test"]
                values = [row[f"solve_f1_{match}"] for row in chosen]
                axes.plot([x + shift for x in trained], [values[x] for x in trained], "-", color=colour)
                mark = "s" if match == "published" else "^"
                axes.plot([x + shift for x in range(len(chosen))], values, mark, color=colour, label=match)
                lows, highs = (
                    [row[f"solve_f1_{match}_low"] for row in chosen],
                    [row[f"solve_f1_{match}_high"] for row in chosen],
                )
                interval_bars(axes, [x + shift for x in range(len(chosen))], values, lows, highs, colour)
            axes.set_xticks(range(len(chosen)), [row["point"] for row in chosen], fontsize=8)
            axes.set(title=policy_label(algorithm), ylim=(0, 1.05))
        axes_list[0].set_ylabel("Solve-F1 (mean, 95% interval)")
        handles, labels = axes_list[0].get_legend_handles_labels()
        figure.legend(handles, [f"{label} matching" for label in labels], loc="outside upper center", ncols=2)
    return figure


def main() -> int:
    return script_main(__doc__, "analysis.reward_hacking", build)


if __name__ == "__main__":
    run_main(main)
