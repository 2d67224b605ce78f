"""The counts of a data set as one sheet of small bar charts: `statistics.png` and `statistics.svg`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from env_construction.environment.schema import SCENARIOS


def draw_figures(statistics: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Draw all splits together. Does nothing if the data set is empty."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if not any(counted["environments"] for counted in statistics.values()):
        return
    panels = _panels(statistics)
    with pyplot.rc_context(
        {"font.size": 8, "svg.hashsalt": "statistics", "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure, axes = pyplot.subplots(3, 3, figsize=(13, 10), layout="constrained")
        for axis, (title, bars) in zip(axes.flat, panels.items(), strict=False):
            labels = [label.replace("_", " ") for label in bars]
            if sum(map(len, labels)) > 40:
                axis.barh(labels[::-1], list(bars.values())[::-1], color="#4878a8")
            else:
                axis.bar(labels, list(bars.values()), color="#4878a8")
            axis.set_title(title, loc="left")
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_axis_off()
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "statistics.png", dpi=130)
        figure.savefig(folder / "statistics.svg", metadata={"Date": None})
        pyplot.close(figure)


def _panels(statistics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """{title: {label: height}}; most heights are sums over the splits."""
    sums: dict[str, Counter[str]] = {}
    rejections: Counter[str] = Counter()
    documents = merged = environments = 0
    for counted in statistics.values():
        environments += counted["environments"]
        documents += counted["counts"].get("documents", 0)
        merged += counted["counts"].get("merged tools", 0)
        for name, values in counted["histograms"].items():
            sums.setdefault(name, Counter()).update(values)
        for name, number in counted["rejections by scenario and rule"].items():
            rejections[name.split("/", 1)[1]] += number
    hops: dict[str, dict[int, int]] = {
        scenario: {int(value): count for value, count in sums.get(f"sub-questions, {scenario}", Counter()).items()}
        for scenario in SCENARIOS
    }
    mean_hops = {
        name: sum(value * count for value, count in counts.items()) / max(1, sum(counts.values()))
        for name, counts in hops.items()
    }
    return {
        "environments by scenario": dict(sums.get("scenario", {})),
        "sub-questions, mean by scenario": mean_hops,
        "tools per environment": _by_number(sums.get("tools per environment", Counter())),
        "prompt tokens (words and signs)": _by_number(sums.get("prompt tokens (words and signs)", Counter())),
        "parameter types": dict(sums.get("parameter type", Counter()).most_common()),
        "answer kinds": dict(sums.get("answer kind", Counter()).most_common()),
        "documents and tools after merging": {"documents": documents, "tools": merged},
        "rejected drafts per 100 environments": {
            rule: 100 * number / max(1, environments) for rule, number in rejections.most_common(12)
        },
        "twelve most used relations": dict(sums.get("relation", Counter()).most_common(12)),
    }


def _by_number(counts: Mapping[str, int]) -> dict[str, float]:
    return {value: counts[value] for value in sorted(counts, key=int)}
