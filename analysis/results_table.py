"""Results of floor, start, controls, trained policies and oracle on the run's test environments.

Inputs:  RUN/eval/<policy>/results.jsonl of every evaluated policy, RUN/policies.json.
Outputs: RUN/analysis/results_table.{csv,md,tex,txt,png,svg,pdf}: Solve-F1, answer accuracy, Solve-P, Solve-R and calls
         with 95% intervals, and the paired differences of each policy to its start with p-values, overall and by
         scenario. RUN/analysis/gain_split.{csv,txt,png,svg,pdf}: the difference in Solve-F1, split into number of
         calls, format (calls that parse), tool (right tool) and argument (right argument).
Paper:   Table 2 (section 4) for the metrics; intervals, controls and the split are ours.

Example: python -m analysis.results_table outputs/cpu
"""

from __future__ import annotations

from typing import Any

from matplotlib.ticker import MaxNLocator

from analysis.figures.artifact import Artifact, caption_text, latex_table, markdown_table, script_main
from analysis.figures.style import GREY, figure_style, new_figure, role_style
from analysis.run_data.intervals import estimate_row, estimate_text, mean_estimate, paired_difference, row_estimate
from analysis.run_data.labels import METRICS as SHOWN
from analysis.run_data.labels import SCENARIOS as SCENARIO_LABELS
from analysis.run_data.run_folder import Missing, Run
from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import SCENARIOS
from eval.compare import FACTORS, decompose
from eval.compare import paired_difference as tested_difference
from eval.environments import HEADLINES
from eval.statistics.estimates import Estimate, add_holm, p_text

METRICS = {**SHOWN, "format_rate": "Format", "tool_rate": "Tool", "argument_rate": "Argument"}


def estimates(run: Run, policy: str, metric: str, scenario: str | None = None) -> tuple[Estimate, Estimate | None]:
    """`(mean, paired difference to the start)` of a metric; the difference is None for start, floor and ceiling."""
    rows = [row for row in run.rows(policy) if scenario in (None, row.get("scenario"))]
    mean = mean_estimate(rows, metric)
    start = run.start_of(policy)
    if start is None:
        return mean, None
    before = [row for row in run.rows(start) if scenario in (None, row.get("scenario"))]
    return mean, paired_difference(rows, before, metric)


def table_rows(run: Run) -> list[dict[str, Any]]:
    """One row per policy and scope (`all` or a scenario)."""
    rows = []
    present = {row.get("scenario") for policy in run.policies for row in run.rows(policy)}
    for scope in (None, *(name for name in SCENARIOS if name in present)):
        for policy in run.policies:
            row: dict[str, Any] = {"policy": policy, "label": run.label(policy), "start": run.start_of(policy)}
            row |= {"scope": scope or "all"}
            for metric in METRICS:
                mean, difference = estimates(run, policy, metric, scope)
                row |= estimate_row(metric, mean)
                if difference is not None:
                    row |= estimate_row(f"{metric}_minus_start", difference)
            rows.append(row)
    _add_p_values(run, [row for row in rows if row["scope"] == "all" and row["start"]])
    return rows


def _add_p_values(run: Run, rows: list[dict[str, Any]]) -> None:
    """Add p of the differences to the start, Holm-corrected over the headline metrics of all policies in `rows`."""
    tested = []
    for row in rows:
        for metric in HEADLINES:
            if found := tested_difference(run.rows(row["start"]), run.rows(row["policy"]), metric):
                tested.append((row, metric, found))
    add_holm([found for _, _, found in tested])
    for row, metric, found in tested:
        row |= {f"{metric}_{key}": found.get(key) for key in ("p", "p_at_floor", "p_holm", "p_holm_at_floor")}


COLUMNS = ("Policy", "n", *SHOWN.values(), "Solve-F1 − start", "Answer − start", "p (Solve-F1)", "p (answer)")


def _cells(row: dict[str, Any], interval: bool) -> list[str]:
    cells = [row["label"], str(row["solve_f1_n"])]
    for metric in SHOWN:
        found = row_estimate(row, metric)
        bare = "n/a" if found.value is None else f"{found.value:.3f}"
        cells.append(estimate_text(found) if interval and metric in HEADLINES else bare)
    for metric in HEADLINES:
        paired = f"{metric}_minus_start"
        cells.append(estimate_text(row_estimate(row, paired), signed=True) if paired in row else "–")
    return cells + [_corrected(row, metric) for metric in HEADLINES]


def _corrected(row: dict[str, Any], metric: str) -> str:
    found = row.get(f"{metric}_p_holm")
    return "–" if found is None else p_text(found, row[f"{metric}_p_holm_at_floor"])


def _markdown(rows: list[dict[str, Any]]) -> str:
    parts = []
    for scope in dict.fromkeys(row["scope"] for row in rows):
        lines = [_cells(row, interval=True) for row in rows if row["scope"] == scope]
        heading = "All scenarios" if scope == "all" else SCENARIO_LABELS.get(scope, scope)
        parts.append(f"### {heading}\n\n" + markdown_table(COLUMNS, lines))
    return "\n".join(parts)


def build(run: Run) -> list[Artifact]:
    """The results table, and the gain split if a start and a policy trained from it were evaluated."""
    if not run.policies:
        raise Missing("no policy was evaluated: eval/<policy>/results.jsonl does not exist")
    rows = table_rows(run)
    overall = [row for row in rows if row["scope"] == "all"]
    figure, axes_list = new_figure(1, 2, height=1.0 + 0.27 * len(overall), share_y=True)
    with figure_style():
        for axes, metric in zip(axes_list, HEADLINES, strict=True):
            for index, row in enumerate(overall):
                found = row_estimate(row, metric)
                if found.value is None or found.low is None or found.high is None:
                    continue
                color, mark, _ = role_style(run.roles[row["policy"]])
                y = len(overall) - index
                axes.plot([found.low, found.high], [y, y], color=color, linewidth=2.0)
                axes.plot(found.value, y, marker=mark, color=color, markersize=6)
            axes.set(xlim=(-0.03, 1.04), ylim=(0.4, len(overall) + 0.6), xlabel=SHOWN[metric])
            # Short labels at the ends, because the panels stand close together.
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
            axes.grid(axis="y", visible=False)
        axes_list[0].set_yticks(range(len(overall), 0, -1), [row["label"] for row in overall])
    n = max(row["solve_f1_n"] for row in overall)
    caption, note = caption_text("results_table", n=n), caption_text("results_note") + " " + run.faults_text()
    texts = {
        ".md": _markdown(rows),
        ".tex": latex_table(COLUMNS, [_cells(row, interval=False) for row in overall]),
    }
    return [
        Artifact("results_table", "Results on the test environments", caption, rows, figure, texts, note),
        *_gain_artifacts(run),
    ]


def _estimate(found: dict[str, Any]) -> Estimate:
    return Estimate(found["value"], found["low"], found["high"], found["n"])


def _gain_artifacts(run: Run) -> list[Artifact]:
    splits = {}
    for policy in run.policies:
        start = run.start_of(policy)
        if start and (split := decompose(run.rows(start), run.rows(policy))):
            splits[policy] = split
    if not splits:
        return []
    rows = []
    for policy, split in splits.items():
        row: dict[str, Any] = {"policy": policy, "label": run.label(policy)}
        row |= estimate_row("solve_f1_gain", _estimate(split["solve_f1_gain"]))
        for name in FACTORS:
            row |= estimate_row(name, _estimate(split["shares"][name]))
            row |= {f"{name}_start": split["rates"][name]["a"], f"{name}_after": split["rates"][name]["b"]}
        rows.append(row)
    figure, axes_list = new_figure(1, len(FACTORS) + 1, height=1.0 + 0.27 * len(rows), share_x=True, share_y=True)
    titles = {
        "attempts": "number of\ncalls",
        "format": "calls that\nparse",
        "tool": "right\ntool",
        "argument": "right\nargument",
    }
    with figure_style():
        for axes, name in zip(axes_list, (*FACTORS, "solve_f1_gain"), strict=True):
            for index, row in enumerate(rows):
                color, mark, _ = role_style(run.roles[row["policy"]])
                axes.plot([row[f"{name}_low"], row[f"{name}_high"]], [-index, -index], color=color, linewidth=1.6)
                axes.plot(row[name], -index, mark, color=color, markersize=5)
            axes.axvline(0, color=GREY, linewidth=0.8)
            axes.set_title(titles.get(name, "total"), fontsize=8)
            axes.xaxis.set_major_locator(MaxNLocator(2))
            axes.grid(axis="y", visible=False)
        axes_list[0].set_yticks([-index for index in range(len(rows))], [row["label"] for row in rows])
        figure.supxlabel("change in Solve-F1 (95% interval)", fontsize=10)
    caption = caption_text("gain_split", n=rows[0]["solve_f1_gain_n"])
    return [
        Artifact(
            "gain_split",
            "Sources of the change in Solve-F1",
            caption,
            rows,
            figure,
            note=caption_text("gain_note") + " " + run.faults_text(),
        )
    ]


def main() -> int:
    return script_main(__doc__, "analysis.results_table", build)


if __name__ == "__main__":
    run_main(main)
