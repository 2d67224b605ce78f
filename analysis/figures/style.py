"""The style of all figures: colors, marks, fonts, axes, and how a figure is saved.

Colors are the eight of Okabe and Ito, which people with common kinds of color blindness can distinguish. A color means
the same in all figures: an algorithm, the start, a control, a bound. Comparisons within one policy (modes, matchings,
measures) use filled and hollow marks instead. All figures have the same width, so that their fonts have the same size.
Saved files are reproducible byte for byte: they have no dates and a fixed salt for SVG ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.stages.policy_roles import Role

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
WIDTH = 6.3
"""Width of every figure in inches: the text width of a paper's page."""

_ROLES = {"floor": (GREY, "x", "..."), "start": (BLACK, "o", ""), "ceiling": (GREEN, "*", "")}
_CONTROLS = {
    "more-supervised": (ORANGE, "v", "\\\\\\"),
    "shuffled": (PURPLE, "P", "xxx"),
    "constant": (YELLOW, "X", "++"),
}
_ALGORITHMS = {"grpo": (BLUE, "s", ""), "reinforce++": (VERMILION, "^", "///")}
_VARIANTS = {
    "solve_precision": ("D", "..."),
    "solve_recall": ("v", "\\\\\\"),
    "solve_pr": ("p", "---"),
    "solve_f1_stop_penalty": ("h", "++"),
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
    "pdf.fonttype": 42,  # text stays text, so that it can be searched and edited
    "savefig.facecolor": "white",
}
SEQUENTIAL_MAP = "cividis"
DIVERGING_MAP = "PuOr"


@contextmanager
def figure_style() -> Iterator[None]:
    """Apply the style to everything drawn in this context; matplotlib's settings are restored afterwards."""
    with matplotlib.rc_context(_RC):
        yield


def role_style(role: Role) -> tuple[str, str, str]:
    """`(color, mark, hatch)` of a policy. The color shows the algorithm or, without one, the role."""
    if role.role in _ROLES:
        return _ROLES[role.role]
    if role.control:
        return _CONTROLS.get(role.control, (SKY, "h", "oo"))
    color, mark, hatch = _ALGORITHMS.get(role.algorithm, (PURPLE, "d", "++"))
    return color, *_VARIANTS.get(role.variant, (mark, hatch))


def new_figure(
    rows: int = 1, columns: int = 1, height: float = 3.4, share_x: bool = False, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of WIDTH x `height` inches and its axes in reading order."""
    with figure_style():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y)
    return figure, list(grid.ravel())


def panel_grid(
    count: int, most_columns: int, panel_height: float, share_x: bool = False, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most `most_columns` in a row, each row `panel_height` inches high."""
    columns = min(most_columns, count)
    rows = -(-count // columns)
    figure, axes_list = new_figure(rows, columns, 0.9 + panel_height * rows, share_x, share_y)
    for axes in axes_list[count:]:
        axes.set_visible(False)
    return figure, axes_list[:count]


def shared_legend(figure: Figure, axes_list: Sequence[Axes], columns: int = 3) -> None:
    """Add one legend above all panels, with each entry once."""
    entries = {
        label: handle for axes in axes_list for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if entries:
        figure.legend(
            list(entries.values()), list(entries), loc="outside upper center", ncols=max(1, min(columns, len(entries)))
        )


def interval_bars(
    axes: Axes,
    x: Sequence[float],
    value: Sequence[float | None],
    low: Sequence[float | None],
    high: Sequence[float | None],
    color: str,
) -> None:
    """Draw thin 95% interval bars around points that are already drawn. A point without a value gets no bar."""
    for place, middle, bottom, top in zip(x, value, low, high, strict=True):
        if middle is not None and bottom is not None and top is not None:
            reach = [[max(0.0, middle - bottom)], [max(0.0, top - middle)]]
            axes.errorbar(
                [place], [middle], yerr=reach, fmt="none", ecolor=color, elinewidth=1.1, capsize=2.5, zorder=5
            )


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png (200 dpi), .svg (text as paths, for the page) and .pdf (text as text, for a paper)."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    no_date: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".svg": {"Date": None, "Creator": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    paths = []
    with figure_style():
        for suffix, metadata in no_date.items():
            paths.append(stem.with_name(stem.name + suffix))
            figure.savefig(paths[-1], dpi=200, metadata=metadata)
    return paths
