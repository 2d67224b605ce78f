"""Does the policy learn to exploit the matching? Scores under `published` and `strict` matching, over training.

The episodes that the policy played at the start of each epoch (train environments), and the final evaluation (test
environments), are replayed turn by turn through the same rollout, tools run again, once with each matching. A gap that
grows over training would mean that the policy learns to please the loose matching rather than to solve.

Inputs:  RUN/policies.json, RUN/train/<policy>/epoch<k>/trajectories.jsonl, RUN/eval/<policy>/results.jsonl,
         RUN/environments/test.jsonl.
Outputs: RUN/analysis/reward_hacking.{csv,txt,png,svg,pdf}.
Paper:   the defects of the published matching (paper/README.md, table of defects, 4 to 7).

Example: python -m analysis.reward_hacking outputs/cpu
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from analysis.figures.artifact import Artifact, caption_text, script_main
from analysis.figures.style import GREY, figure_style, interval_bars, new_figure, role_style, shared_legend
from analysis.run_data.intervals import estimate_row, estimate_text, mean_estimate, paired_difference
from analysis.run_data.run_folder import Missing, Run
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

    Rows are `id`, `outcome`, `solve_f1`, `reward` (mean over turns). Episodes that were too long or ran out of turns
    end so again, with their score. One that a fault ends is played once more; one that ends so twice is lost, and has
    no row.
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
    """`(policy, point, environments, file of recorded turns)` of everything that can be replayed."""
    found = []
    for policy, epochs in run.epochs.items():
        if run.roles[policy].role != "trained" or run.roles[policy].seed:
            continue
        for epoch in epochs:
            path = epoch.path / "trajectories.jsonl"
            if path.is_file():
                starts: dict[str, Environment] = {}
                for number, row in read_jsonl(path, required=("id", "environment")):
                    if len(starts) < MOST_EPISODES:
                        starts.setdefault(row["id"], Environment.from_record(row["environment"], f"{path}:{number}"))
                found.append((policy, f"epoch {epoch.number}", list(starts.values()), path))
        test = run.environments()
        if policy in run.policies and test:
            cases = dict.fromkeys(str(row["id"]) for row in run.rows(policy))
            path = run.path / "eval" / policy / "results.jsonl"
            found.append((policy, "test", [test[case] for case in cases if case in test], path))
    return found


def build(run: Run) -> list[Artifact]:
    """Raises Missing without recorded trajectories."""
    points = _points(run)
    if not any(point.startswith("epoch") for _, point, _, _ in points):
        raise Missing("train/<policy>/epoch<k>/trajectories.jsonl is not there")
    rows: list[dict[str, Any]] = []
    gaps: dict[tuple[str, str], list[dict[str, Any]]] = {}
    lost: list[str] = []
    replayed = 0
    for policy, point, environments, path in tqdm(points, desc="replay", unit="set", disable=None, leave=False):
        scores, faults = {}, {}
        for match in MATCHES:
            scores[match], faults[match] = rescored(environments, path, match)
        row: dict[str, Any] = {"policy": policy, "label": run.label(policy), "point": point}
        row["too_long"] = sum(item["outcome"] == "too_long" for item in scores["published"])
        row |= {f"faults_{match}": len(faults[match]) for match in MATCHES}
        lost += [text for match in MATCHES for text in faults[match]]
        replayed += len(MATCHES) * len(environments)
        for match in MATCHES:
            for metric in ("solve_f1", "reward"):
                row |= estimate_row(f"{metric}_{match}", mean_estimate(scores[match], metric))
        row |= estimate_row("solve_f1_gap", paired_difference(scores["published"], scores["strict"], "solve_f1"))
        strict = {item["id"]: item["solve_f1"] for item in scores["strict"]}
        gaps[policy, point] = [
            {"id": item["id"], "gap": item["solve_f1"] - strict[item["id"]]}
            for item in scores["published"]
            if item["id"] in strict
        ]
        rows.append(row)
    said = f"{text}. " if (text := faults_text(lost, replayed, "replayed episodes")) else ""
    counts = sorted({row["solve_f1_gap_n"] for row in rows})
    n = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    caption = caption_text("reward_hacking", n=n)
    note = caption_text("hacking_note", growth=_growth(run, gaps)) + " " + said
    return [
        Artifact(
            "reward_hacking", "Does it learn to please the matching?", caption, rows, _figure(run, rows), note=note
        )
    ]


def _growth(run: Run, gaps: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    sentences = []
    for policy in dict.fromkeys(name for name, _ in gaps):
        epochs = [point for name, point in gaps if name == policy and point.startswith("epoch")]
        if len(epochs) > 1:
            change: Estimate = paired_difference(gaps[policy, epochs[-1]], gaps[policy, epochs[0]], "gap")
            sentences.append(f"{run.label(policy)} {estimate_text(change, signed=True)}")
    return "; ".join(sentences) or "not known with one epoch"


def _figure(run: Run, rows: list[dict[str, Any]]) -> Any:
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    columns = min(3, len(policies))
    lines = -(-len(policies) // columns)
    figure, axes_list = new_figure(lines, columns, height=0.9 + 2.1 * lines, share_y=True)
    with figure_style():
        for axes, policy in zip(axes_list, policies, strict=False):
            chosen = [row for row in rows if row["policy"] == policy]
            color, mark, _ = role_style(run.roles[policy])
            for match, shift in zip(MATCHES, (-0.06, 0.06), strict=True):
                values = [row[f"solve_f1_{match}"] for row in chosen]
                x = [place + shift for place in range(len(chosen))]
                face = color if match == "published" else "white"
                axes.plot(x, values, mark, color=color, markerfacecolor=face)
                lows, highs = ([row[f"solve_f1_{match}_{end}"] for row in chosen] for end in ("low", "high"))
                interval_bars(axes, x, values, lows, highs, color)
            axes.set_xticks(range(len(chosen)), [row["point"].replace(" ", "\n") for row in chosen], fontsize=8)
            axes.set_title(run.label(policy).replace(": ", ":\n"), fontsize=9)
            axes.set_ylim(0, 1.05)
        for axes in axes_list[len(policies) :]:
            axes.set_visible(False)
        for match in MATCHES:
            face = GREY if match == "published" else "white"
            axes_list[0].plot([], [], "o", color=GREY, markerfacecolor=face, label=f"{match} matching")
        axes_list[0].set_ylabel("Solve-F1 (mean)")
        shared_legend(figure, axes_list)
    return figure


def main() -> int:
    return script_main(__doc__, "analysis.reward_hacking", build)


if __name__ == "__main__":
    run_main(main)
