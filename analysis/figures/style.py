"""The one style of all figures: colours, marks, fonts, axes, and how a figure is saved.

Colours are Okabe and Ito's eight (distinguishable with the common kinds of colour blindness); every policy also has a mark
or a hatch of its own, so that nothing depends on colour alone. Saved files are reproducible byte for byte: no dates,
and a fixed salt for SVG ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#7F7F7F"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "++", "oo")

# One colour, mark and hatch per policy, wherever it is drawn; variants of an algorithm by the end of their name.
_POLICY_STYLE = {
    "random": (GREY, "x", "..."),
    "start": (BLACK, "o", ""),
    "more-supervised": (ORANGE, "v", "\\\\\\"),
    "grpo": (BLUE, "s", ""),
    "reinforce++": (VERMILION, "^", "///"),
    "oracle": (GREEN, "*", ""),
}
_VARIANT_STYLE = {
    "-shuffled": (PURPLE, "P", "xxx"),
    "-constant": (YELLOW, "X", "++"),
    "-solve-precision": (GREEN, "D", "..."),
    "-solve-recall": (ORANGE, "v", "\\\\\\"),
    "-solve-pr": (SKY, "p", "---"),
}
_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "svg.hashsalt": "ftrl",
    "svg.fonttype": "path",
    "savefig.facecolor": "white",
}
SEQUENTIAL_MAP = "cividis"
DIVERGING_MAP = "PuOr"


@contextmanager
def figure_style() -> Iterator[None]:
    """Everything drawn inside takes the house style; matplotlib's settings are restored afterwards."""
    with matplotlib.rc_context(_RC):
        yield


def policy_style(policy: str, index: int = 0) -> tuple[str, str, str]:
    """`(colour, mark, hatch)` of a policy; an unknown name takes the palette's entry at `index`. A repeat looks like its first."""
    policy = re.sub(r"-seed\d+$", "", policy)
    if policy.endswith("-thinking"):  # the colour of the plain policy, a mark and a hatch of its own
        return policy_style(policy.removesuffix("-thinking"), index)[0], "h", "xxx"
    for ending, style in _VARIANT_STYLE.items():
        if policy.endswith(ending):
            return style
    if policy in _POLICY_STYLE:
        return _POLICY_STYLE[policy]
    return PALETTE[index % len(PALETTE)], MARKS[index % len(MARKS)], HATCHES[index % len(HATCHES)]


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 3.6, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `width` x `height` inches and its axes in reading order."""
    with figure_style():
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    return figure, list(grid.ravel())


def interval_bars(
    axes: Axes,
    x: Sequence[float],
    value: Sequence[float | None],
    low: Sequence[float | None],
    high: Sequence[float | None],
    colour: str,
) -> None:
    """Thin 95% interval bars around points that are already drawn; a point without a value gets none."""
    for place, middle, bottom, top in zip(x, value, low, high, strict=True):
        if middle is not None and bottom is not None and top is not None:
            reach = [[max(0.0, middle - bottom)], [max(0.0, top - middle)]]
            axes.errorbar(
                [place], [middle], yerr=reach, fmt="none", ecolor=colour, elinewidth=1.1, capsize=2.5, zorder=5
            )


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png (160 dots an inch) and `stem`.svg; returns both paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".svg")
    with figure_style():
        figure.savefig(png, dpi=160, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]
