"""What kind of error ends an episode, before and after training.

Inputs:  RUN/policies.json, RUN/eval/<policy>/results.jsonl (transcripts and turn scores), RUN/environments/test.jsonl.
Outputs: RUN/analysis/failure_modes.{csv,txt,png,svg,pdf}: share of episodes per way of ending, with intervals.
Paper:   section 5 (error analysis); the classes are defined in ENDINGS.

Example: python -m analysis.failure_modes outputs/cpu
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.figures.artifact import Artifact, caption_text, script_main
from analysis.figures.style import figure_style, new_figure
from analysis.run_data.intervals import estimate_row, mean_estimate, paired_difference
from analysis.run_data.run_folder import Run
from env_construction.environment.jsonl import run_main

ENDINGS = {
    "success": "everything solved and, where there is one, the answer given",
    "wrong tool": "the last call that solved nothing named an unknown tool or one with nothing left to solve; then it stopped or ran out of turns",
    "wrong argument": "the same, but the tool was right: its arguments were not",
    "repeated call": "the same, and the call had been made before with the same arguments",
    "malformed": "the last turn holds a call that cannot be read",
    "empty or cut off": "the last turn is empty or hit the limit of tokens, or the prompt outgrew the context",
    "hallucinated answer": "it answered with a name or number that neither the question nor any tool output holds",
    "wrong answer": "everything was solved, the answer is wrong but made of what was seen",
    "gave up": "it stopped with sub-questions open, after calls that all helped or without any call",
}
_NAMED = re.compile(r"\b(?:[A-Z][\w'-]+|\d[\d,.]*)")


def _calls(row: Mapping[str, Any]) -> list[tuple[str, bool, str]]:
    """`(name with arguments, solved something, name)` of every call, in order."""
    calls = []
    scores = list(row.get("turn_scores") or [])
    spoken = [message for message in row.get("transcript") or [] if message.get("role") == "assistant"]
    for score, message in zip(scores, spoken[len(spoken) - len(scores) :], strict=False):
        for call, solved in zip(message.get("tool_calls") or [], score.get("solved") or [], strict=False):
            function = call.get("function", call)
            calls.append(
                (
                    json.dumps([function["name"], function["arguments"]], sort_keys=True),
                    solved is not None,
                    function["name"],
                )
            )
    return calls


def _invented(row: Mapping[str, Any]) -> bool:
    """Whether the final text names something that nothing before it named. A sentence's first word does not count."""
    messages = list(row.get("transcript") or [])
    if not messages or messages[-1].get("role") != "assistant":
        return False
    text = re.sub(r"(^|[.!?:]\s+)\w+", r"\1", str(messages[-1].get("content") or ""))
    seen = " ".join(str(message.get("content") or "") for message in messages[:-1]).lower()
    return any(name.lower().strip(".,") not in seen for name in _NAMED.findall(text))


def ending(row: Mapping[str, Any], needed: Mapping[str, int]) -> str:
    """The class of an episode, a key of ENDINGS. `needed` counts the sub-answers of each tool at the start."""
    solved_all = int(row.get("solved") or 0) >= int(row.get("sub_questions") or 0)
    if solved_all and row.get("answer_correct") in (True, 1, None):
        return "success"
    scores = list(row.get("turn_scores") or [])
    last = scores[-1] if scores else {}
    if last.get("kind") == "malformed":
        return "malformed"
    if not scores or last.get("kind") == "empty" or last.get("truncated") or row.get("outcome") == "too_long":
        return "empty or cut off"
    if solved_all:
        return "hallucinated answer" if _invented(row) else "wrong answer"
    calls = _calls(row)
    if calls and not calls[-1][1]:
        left = dict(needed)
        for _, solved, name in calls:
            left[name] = left.get(name, 0) - solved
        content, _, name = calls[-1]
        if any(earlier == content for earlier, _, _ in calls[:-1]):
            return "repeated call"
        return "wrong argument" if left.get(name, 0) > 0 else "wrong tool"
    return "hallucinated answer" if _invented(row) else "gave up"


def build(run: Run) -> list[Artifact]:
    """Raises Missing without a start and a trained policy."""
    run.compared()
    policies = [name for name in run.policies if run.roles[name].role not in ("floor", "ceiling")]
    needed = {
        case: {tool: len(answers) for tool, answers in environment.unsolved_set.items()}
        for case, environment in run.environments().items()
    }
    classed: dict[str, list[dict[str, Any]]] = {}
    for policy in policies:
        classed[policy] = []
        for episode in run.rows(policy):
            found = ending(episode, needed.get(str(episode["id"]), {}))
            shares = {name: float(name == found) for name in ENDINGS}
            classed[policy].append({"id": episode["id"], "trial": episode.get("trial", 0)} | shares)
    rows = []
    for policy in policies:
        start = run.start_of(policy)
        for name in ENDINGS:
            row: dict[str, Any] = {"policy": policy, "label": run.label(policy), "ending": name}
            row |= estimate_row("share", mean_estimate(classed[policy], name))
            if start:
                row |= estimate_row("minus_start", paired_difference(classed[policy], classed[start], name))
            rows.append(row)
    shown = [name for name in ENDINGS if any(row["ending"] == name and row["share"] for row in rows)]
    caption = caption_text("failure_modes", n=max(row["share_n"] for row in rows))
    definitions = "; ".join(f"{name}: {ENDINGS[name]}" for name in shown)
    note = f"{definitions}. {caption_text('failure_note')} {run.faults_text()}"
    return [Artifact("failure_modes", "How episodes end", caption, rows, _figure(rows, shown), note=note)]


def _figure(rows: list[dict[str, Any]], shown: list[str]) -> Any:
    """Shares in percent, policies from top to bottom: a table whose shades show where the large ones are."""
    labels = list(dict.fromkeys(row["label"] for row in rows))
    grid = np.full((len(labels), len(shown)), np.nan)
    for row in rows:
        if row["ending"] in shown and row["share"] is not None:
            grid[labels.index(row["label"]), shown.index(row["ending"])] = 100 * row["share"]
    figure, (axes,) = new_figure(height=1.3 + 0.3 * len(labels))
    with figure_style():
        axes.grid(False)
        axes.imshow(grid, cmap="Greys", aspect="auto", vmin=0, vmax=130)
        for line, column in np.argwhere(~np.isnan(grid)):
            value = grid[line, column]
            axes.text(column, line, f"{value:.0f}", ha="center", va="center", color="white" if value > 75 else "black")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xticks(range(len(shown)), [name.replace(" ", "\n", 1) for name in shown], fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title("share of episodes (%)", fontsize=10)
    return figure


def main() -> int:
    return script_main(__doc__, "analysis.failure_modes", build)


if __name__ == "__main__":
    run_main(main)
