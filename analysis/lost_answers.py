"""Which right answers training loses, which it wins, and how the lost ones end.

A policy can gain in Solve-F1 and still answer fewer questions: Solve-F1 rewards few calls, and an answer needs all
sub-answers. For each trained policy, the cases that its start answers and it does not are split by what went wrong.

Inputs:  RUN/policies.json, RUN/eval/<policy>/results.jsonl (transcripts and turn scores), RUN/environments/test.jsonl.
Outputs: RUN/analysis/lost_answers.{csv,txt,png,svg,pdf}: shares of cases with intervals, for all scenarios and each.

Example: python -m analysis.lost_answers outputs/cpu
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.failure_modes import calls_of, needed_answers
from analysis.figures.artifact import Artifact, caption_text, script_main
from analysis.figures.style import figure_style, new_figure, role_style, shared_legend
from analysis.run_data.intervals import estimate_row, mean_estimate
from analysis.run_data.run_folder import Run
from env_construction.environment.jsonl import run_main

LOSSES = {
    "never called": "it answered although it had never called a tool that was still needed",
    "called without success": "every tool that was still needed had been called, without the sub-answer",
    "wrong answer": "it solved every sub-question and gave another answer",
    "no answer": "the last turn is malformed, empty or cut off, or the turns ran out",
}
_SHADES = ("#222222", "#6E6E6E", "#A8A8A8", "#DADADA")
ALL = "all"


def loss(row: Mapping[str, Any], needed: Mapping[str, int]) -> str:
    """What went wrong in an episode without the right answer, a key of LOSSES.

    `needed` maps each tool to its number of sub-answers at the start of the episode.
    """
    scores = list(row.get("turn_scores") or [])
    last = scores[-1] if scores else {}
    if row.get("outcome") != "answered" or last.get("truncated") or last.get("kind") in ("malformed", "empty"):
        return "no answer"
    if int(row.get("solved") or 0) >= int(row.get("sub_questions") or 0):
        return "wrong answer"
    calls = calls_of(row)
    for tool, answers in needed.items():
        made = [solved for _, solved, name in calls if name == tool]
        if sum(made) < answers and len(made) < answers:
            return "never called"
    return "called without success"


def build(run: Run) -> list[Artifact]:
    """Raises Missing without a start and a trained policy."""
    compared = run.compared()
    needed = needed_answers(run)
    rows = []
    for start, policies in compared.items():
        before = {(row["id"], row.get("trial", 0)): row for row in run.rows(start)}
        for policy in policies:
            pairs = [
                (before[key], row) for row in run.rows(policy) if (key := (row["id"], row.get("trial", 0))) in before
            ]
            cases = [_compared(old, new, needed) for old, new in pairs if old.get("answer_correct") is not None]
            for scenario in (ALL, *dict.fromkeys(case["scenario"] for case in cases)):
                chosen = [case for case in cases if scenario in (ALL, case["scenario"])]
                row: dict[str, Any] = {"policy": policy, "label": run.label(policy), "scenario": scenario}
                for name in ("before", "after", "won", "lost", *LOSSES):
                    row |= estimate_row(name, mean_estimate(chosen, name))
                rows.append(row)
    definitions = "; ".join(f"{name}: {text}" for name, text in LOSSES.items())
    note = f"{definitions}. {caption_text('lost_answers_note')} {run.faults_text()}"
    caption = caption_text("lost_answers", n=max(row["lost_n"] for row in rows))
    return [Artifact("lost_answers", "Right answers won and lost", caption, rows, _figure(run, rows), note=note)]


def _compared(
    old: Mapping[str, Any], new: Mapping[str, Any], needed: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """One case before and after training, each column 0 or 1."""
    was, is_now = bool(old["answer_correct"]), bool(new.get("answer_correct"))
    lost = loss(new, needed.get(str(new["id"]), {})) if was and not is_now else ""
    case = {"id": new["id"], "trial": new.get("trial", 0), "scenario": str(new.get("scenario") or "other")}
    changed = {"before": was, "after": is_now, "won": is_now and not was, "lost": bool(lost)}
    return case | {name: float(value) for name, value in (changed | {name: name == lost for name in LOSSES}).items()}


def _figure(run: Run, rows: list[dict[str, Any]]) -> Any:
    """Bars from the middle: won answers to the right, lost ones to the left by what went wrong."""
    shown = [row for row in rows if row["scenario"] == ALL]
    figure, (axes,) = new_figure(height=1.5 + 0.42 * len(shown))
    with figure_style():
        for place, row in enumerate(shown):
            axes.barh(-place, 100 * row["won"], color=role_style(run.roles[row["policy"]])[0], height=0.6)
            left = 0.0
            for name, shade in zip(LOSSES, _SHADES, strict=True):
                width = 100 * row[name]
                axes.barh(-place, -width, left=-left, color=shade, height=0.6, label=f"lost: {name}")
                left += width
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks([-place for place in range(len(shown))], [row["label"] for row in shown])
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        axes.set_xlabel("share of test environments (%): lost to the left, won to the right")
        axes.grid(axis="y", visible=False)
        shared_legend(figure, [axes], columns=2)
    return figure


def main() -> int:
    return script_main(__doc__, "analysis.lost_answers", build)


if __name__ == "__main__":
    run_main(main)
