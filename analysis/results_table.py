"""The run's own results: floor, start, controls, GRPO, REINFORCE++ and oracle on the test environments.

Inputs:  RUN/eval/<policy>/results.jsonl of every evaluated policy.
Outputs: RUN/analysis/results_table.{csv,md,txt,png,svg}: Solve-P, Solve-R and Solve-F1 with 95% intervals and the paired
         difference to the start with its p-value, overall and by scenario; gain_split.{csv,txt,png,svg}: the gain in Solve-F1 split into
         number of calls, format (calls that parse), tool (right tool) and argument (right argument).
Paper:   Table 2 (section 4) for the metrics; intervals, controls and the split are ours.

Example: python -m analysis.results_table outputs/cpu
"""

from __future__ import annotations

from typing import Any

from analysis.figures.artifact import Artifact, markdown_table, script_main
from analysis.figures.style import GREY, HATCHES, PALETTE, figure_style, interval_bars, new_figure, policy_style
from analysis.run_data.intervals import estimate_row, estimate_text, mean_estimate, paired_difference, row_estimate
from analysis.run_data.run_folder import SCENARIO_LABELS, Missing, Run, policy_label
from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import SCENARIOS
from eval.compare import FACTORS, decompose
from eval.compare import paired_difference as tested_difference
from eval.environments import HEADLINES
from eval.statistics.estimates import Estimate, add_holm, p_text

METRICS = {
    "solve_p": "Solve-P",
    "solve_r": "Solve-R",
    "solve_f1": "Solve-F1",
    "answer_correct": "Answer",
    "format_rate": "Format",
    "tool_rate": "Tool",
    "argument_rate": "Argument",
}


def estimates(run: Run, policy: str, metric: str, scenario: str | None = None) -> tuple[Estimate, Estimate | None]:
    """`(mean, paired difference to the start)` of a metric; no difference for the start itself or without a start."""
    rows = [row for row in run.rows(policy) if scenario in (None, row.get("scenario"))]
    mean = mean_estimate(rows, metric)
    if policy == "start" or "start" not in run.policies:
        return mean, None
    before = [row for row in run.rows("start") if scenario in (None, row.get("scenario"))]
    return mean, paired_difference(rows, before, metric)


def table_rows(run: Run) -> list[dict[str, Any]]:
    """One row per policy and scope (`all` or a scenario)."""
    rows = []
    present = {row.get("scenario") for policy in run.policies for row in run.rows(policy)}
    for scope in (None, *(name for name in SCENARIOS if name in present)):
        for policy in run.policies:
            row: dict[str, Any] = {"policy": policy, "scope": scope or "all"}
            for metric in METRICS:
                mean, difference = estimates(run, policy, metric, scope)
                row |= estimate_row(metric, mean)
                if difference is not None:
                    row |= estimate_row(f"{metric}_minus_start", difference)
            rows.append(row)
    _add_p_values(run, [row for row in rows if row["scope"] == "all"])
    return rows


def _add_p_values(run: Run, rows: list[dict[str, Any]]) -> None:
    """p of the difference to the start in the headline metrics, Holm-corrected over them and all policies but floor and ceiling."""
    if "start" not in run.policies:
        return
    tested = []
    for row in rows:
        for metric in HEADLINES if row["policy"] not in ("start", "random", "oracle") else ():
            if found := tested_difference(run.rows("start"), run.rows(row["policy"]), metric):
                tested.append((row, metric, found))
    add_holm([found for _, _, found in tested])
    for row, metric, found in tested:
        for key in ("p", "p_at_floor", "p_holm", "p_holm_at_floor"):
            row[f"{metric}_{key}"] = found.get(key)


def _markdown(rows: list[dict[str, Any]]) -> str:
    parts = []
    for scope in dict.fromkeys(row["scope"] for row in rows):
        lines = []
        for row in (row for row in rows if row["scope"] == scope):
            cells = [policy_label(row["policy"]), str(row["solve_f1_n"])]
            cells += [estimate_text(row_estimate(row, metric)) for metric in ("solve_p", "solve_r", "solve_f1")]
            paired = "solve_f1_minus_start"
            cells.append(estimate_text(row_estimate(row, paired), signed=True) if paired in row else "–")
            cells.append(_corrected(row, "solve_f1"))
            for metric in ("format_rate", "tool_rate", "argument_rate", "answer_correct"):
                cells.append("n/a" if row[metric] is None else f"{row[metric]:.3f}")
            cells.append(_corrected(row, "answer_correct"))
            lines.append(cells)
        heading = "All scenarios" if scope == "all" else SCENARIO_LABELS.get(scope, scope)
        columns = ["Policy", "n", "Solve-P", "Solve-R", "Solve-F1", "Solve-F1 − start (paired)", "p (Holm)"]
        parts.append(
            f"### {heading}\n\n"
            + markdown_table([*columns, "Format", "Tool", "Argument", "Answer", "p of answer (Holm)"], lines)
        )
    return "\n".join(parts)


def _corrected(row: dict[str, Any], metric: str) -> str:
    found = row.get(f"{metric}_p_holm")
    return "–" if found is None else p_text(found, row[f"{metric}_p_holm_at_floor"])


def build(run: Run) -> list[Artifact]:
    """The results table, and the gain split where there is a start and something to compare with it."""
    if not run.policies:
        raise Missing("no policy was evaluated: eval/<policy>/results.jsonl is not there")
    rows = table_rows(run)
    overall = [row for row in rows if row["scope"] == "all"]
    figure, (axes,) = new_figure(height=0.9 + 0.42 * len(overall))
    with figure_style():
        for index, row in enumerate(overall):
            colour, mark, _ = policy_style(row["policy"], index)
            y = len(overall) - index
            axes.plot([row["solve_f1_low"], row["solve_f1_high"]], [y, y], color=colour, linewidth=2.2)
            axes.plot(row["solve_f1"], y, marker=mark, color=colour, markersize=7)
            axes.annotate(
                f"{row['solve_f1']:.3f}",
                (row["solve_f1"], y),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.set_yticks(range(len(overall), 0, -1), [policy_label(row["policy"]) for row in overall])
        axes.set(xlim=(-0.03, 1.04), ylim=(0.4, len(overall) + 0.7), xlabel="Solve-F1 (mean over cases, 95% interval)")
        axes.grid(axis="y", visible=False)
    n = max(row["solve_f1_n"] for row in overall)
    caption = (
        f"Solve-F1 of every policy on the run's test environments, n = {n}. Points are means over cases, bars 95% "
        f"intervals over cases (trials of a case kept together). {run.faults_text()}Random is the "
        "floor, oracle plays the gold plan; paired differences to the start are in the table, with p-values corrected (Holm) over Solve-F1 and answer accuracy of all policies but floor and ceiling. Source: eval/<policy>/results.jsonl."
    )
    table = Artifact(
        "results_table", "Results on the test environments", caption, rows, figure, {".md": _markdown(rows)}
    )
    return [table, *_gain_artifacts(run)]


def _estimate(found: dict[str, Any]) -> Estimate:
    return Estimate(found["value"], found["low"], found["high"], found["n"])


def _gain_artifacts(run: Run) -> list[Artifact]:
    others = [policy for policy in run.policies if policy not in ("start", "random", "oracle")]
    if "start" not in run.policies:
        return []
    splits = {policy: split for policy in others if (split := decompose(run.rows("start"), run.rows(policy)))}
    if not splits:
        return []
    rows = []
    for policy, split in splits.items():
        row: dict[str, Any] = {"policy": policy} | estimate_row("solve_f1_gain", _estimate(split["solve_f1_gain"]))
        for name in FACTORS:
            row |= estimate_row(name, _estimate(split["shares"][name]))
            row |= {f"{name}_rate_start": split["rates"][name]["a"], f"{name}_rate": split["rates"][name]["b"]}
        rows.append(row)
    figure, (axes,) = new_figure(width=max(7.0, 1.05 * len(splits) + 1.2), height=3.8)
    with figure_style():
        width = 0.8 / (len(FACTORS) + 1)
        for index, name in enumerate((*FACTORS, "total")):
            key = "solve_f1_gain" if name == "total" else name
            found = [row_estimate(row, key) for row in rows]
            x = [position + (index - len(FACTORS) / 2) * width for position in range(len(found))]
            colour = GREY if name == "total" else PALETTE[index]
            values = [item.value for item in found]
            axes.bar(
                x,
                [value or 0.0 for value in values],
                width * 0.92,
                color=colour,
                hatch=HATCHES[index],
                edgecolor="white",
                label=name,
            )
            interval_bars(axes, x, values, [item.low for item in found], [item.high for item in found], "#333333")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xticks(
            range(len(splits)),
            [policy_label(policy).replace(", ", ",\n").replace(" supervised", "\nsupervised") for policy in splits],
            fontsize=8,
        )
        axes.set_ylabel("change of Solve-F1")
        axes.grid(axis="x", visible=False)
        axes.legend(ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    n = rows[0]["solve_f1_gain_n"]
    caption = (
        f"Where the change of Solve-F1 against the start comes from, over the same n = {n} test environments: attempted calls, format (calls "
        "that parse), tool (a tool that still has an unsolved sub-answer) and argument (the call solves it). Shapley split of each case's Solve-F1, averaged, so that "
        "the parts add up to the difference in the results table; 95% intervals over cases. Accounting, not causes: leaving out calls that would miss lowers the "
        "attempts and raises the rates. Source: eval/<policy>/results.jsonl."
    )
    return [Artifact("gain_split", "What the gain is made of", caption, rows, figure)]


def main() -> int:
    return script_main(__doc__, "analysis.results_table", build)


if __name__ == "__main__":
    run_main(main)
