"""What kind of error ends an episode, before and after training.

Inputs:  RUN/eval/<policy>/results.jsonl (transcripts and turn scores), RUN/environments/test.jsonl.
Outputs: RUN/analysis/failure_modes.{csv,txt,png,svg}: share of episodes per way of ending, with intervals.
Paper:   section 5 (error analysis); the classes are defined in ENDINGS.

Example: python -m analysis.failure_modes outputs/cpu
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from analysis.figures.artifact import Artifact, script_main
from analysis.figures.style import GREY, HATCHES, PALETTE, figure_style, new_figure
from analysis.run_data.intervals import estimate_row, mean_estimate, paired_difference
from analysis.run_data.run_folder import Run, policy_label
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
    run.need_trained()
    policies = [policy for policy in run.policies if policy not in ("random", "oracle")]
    needed = {
        case: {tool: len(answers) for tool, answers in environment.unsolved_set.items()}
        for case, environment in run.environments("test").items()
    }
    classed: dict[str, list[dict[str, Any]]] = {}
    for policy in policies:
        classed[policy] = []
        for episode in run.rows(policy):
            found = ending(episode, needed.get(str(episode["id"]), {}))
            classed[policy].append({"id": episode["id"]} | {name: float(name == found) for name in ENDINGS})
    rows = []
    for policy in policies:
        for name in ENDINGS:
            row: dict[str, Any] = {"policy": policy, "ending": name} | estimate_row(
                "share", mean_estimate(classed[policy], name)
            )
            if policy != "start":
                row |= estimate_row("minus_start", paired_difference(classed[policy], classed["start"], name))
            rows.append(row)
    shown = [name for name in ENDINGS if any(row["ending"] == name and row["share"] for row in rows)]
    figure, (axes,) = new_figure(width=8.5, height=1.9 + 0.5 * len(policies))
    with figure_style():
        left = [0.0] * len(policies)
        for name in shown:
            index = list(ENDINGS).index(name)
            shares = [
                100 * next(row["share"] for row in rows if (row["policy"], row["ending"]) == (policy, name))
                for policy in policies
            ]
            colour = "#DDDDDD" if name == "success" else (*PALETTE, GREY)[index - 1]
            axes.barh(
                range(len(policies)),
                shares,
                left=left,
                color=colour,
                hatch=HATCHES[index % len(HATCHES)],
                edgecolor="white",
                label=name,
            )
            for place, share in enumerate(shares):
                if share >= 6:
                    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
                    axes.text(
                        left[place] + share / 2, place, f"{share:.0f}", ha="center", va="center", fontsize=8, bbox=box
                    )
            left = [before + share for before, share in zip(left, shares, strict=True)]
        axes.set_yticks(range(len(policies)), [policy_label(policy) for policy in policies])
        axes.invert_yaxis()
        axes.set(xlabel="share of episodes (%)", xlim=(0, 100))
        axes.grid(axis="y", visible=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    n = len({row["id"] for row in run.rows("start")})
    definitions = "; ".join(f"{name}: {ENDINGS[name]}" for name in shown if name != "success")
    caption = (
        f"How episodes end, n = {n} test environments for each policy. {definitions}. Shares with 95% intervals over cases, and their paired "
        f"difference to the start, are in the CSV. {run.faults_text()}Source: eval/<policy>/results.jsonl."
    )
    return [Artifact("failure_modes", "What ends an episode", caption, rows, figure)]


def main() -> int:
    return script_main(__doc__, "analysis.failure_modes", build)


if __name__ == "__main__":
    run_main(main)
