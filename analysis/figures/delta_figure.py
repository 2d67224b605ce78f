"""The heat maps of parameter changes: layers by module kinds, as in the paper's figure, once in each measure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from analysis.checkpoints.tensor_change import Sums
from analysis.checkpoints.tensors import BLOCKS
from analysis.figures.style import DIVERGING_MAP, figure_style, new_figure

MEASURES = {"relative": "relative norm", "elementwise": "elementwise mean", "changed_share": "share changed"}
"""Attributes of Sums, and what they are called."""
CELL_TEXT_LAYERS = 12  # with more layers, numbers in the cells would not be readable
LARGEST_RATIO = 2.0
LEAST_CONTRAST = 1.02


def _ratios(
    cells: Mapping[tuple[int | None, str], Sums], layers: list[int], kinds: list[str], measure: str
) -> np.ndarray:
    """(layers, kinds) changes over their median; over their mean where the median is 0, as where few weights
    changed.
    """
    grid = np.full((max(1, len(layers)), max(1, len(kinds))), np.nan)
    for (layer, kind), sums in cells.items():
        if layer in layers and kind in kinds:
            grid[layers.index(layer), kinds.index(kind)] = getattr(sums, measure)
    known = grid[np.isfinite(grid)]
    usual = float(np.median(known) or np.mean(known)) if known.size else 0.0
    return grid / usual if usual else np.ones_like(grid)


def delta_figure(cells: Mapping[tuple[int | None, str], Sums]) -> Figure:
    """A heat map per measure: the change of each weight matrix over the median of all of them, so that 1 is usual.

    Norms, embeddings and head are in the table alone: their change is of another size, and would hide that of the
    layers. A measure that is the same everywhere is left out: if every weight changed, the share of changed weights
    shows nothing.
    """
    kinds = [kind for kind in BLOCKS if any(found == kind for _, found in cells)]
    layers = sorted({layer for layer, kind in cells if layer is not None and kind in kinds})
    grids = {measure: _ratios(cells, layers, kinds, measure) for measure in MEASURES}
    drawn = [measure for measure, grid in grids.items() if np.nanmax(grid) > LEAST_CONTRAST * np.nanmin(grid)] or [
        "relative"
    ]
    height = 1.7 + min(0.26, 6 / max(1, len(layers))) * len(layers)
    figure, axes_list = new_figure(1, len(drawn), height=height, share_y=True)
    with figure_style():
        for axes, measure in zip(axes_list, drawn, strict=True):
            ratio = grids[measure]
            axes.grid(False)
            shown = np.log2(np.clip(ratio, 1 / LARGEST_RATIO, LARGEST_RATIO))
            image = axes.imshow(shown, cmap=DIVERGING_MAP, aspect="auto", vmin=-1, vmax=1)
            axes.set_xticks(range(len(kinds)), kinds, rotation=60, fontsize=8)
            axes.set_yticks(range(len(layers)), [str(layer) for layer in layers], fontsize=8)
            if len(layers) > CELL_TEXT_LAYERS:
                axes.set_yticks(range(0, len(layers), 4), [str(layer) for layer in layers[::4]], fontsize=8)
            axes.set_title(MEASURES[measure])
            if len(layers) <= CELL_TEXT_LAYERS:
                for row, column in np.argwhere(np.isfinite(ratio)):
                    dark = abs(shown[row, column]) > 0.75
                    text = f"{ratio[row, column]:.1f}"
                    axes.text(
                        column, row, text, ha="center", va="center", fontsize=6, color="white" if dark else "black"
                    )
        axes_list[0].set_ylabel("layer")
        bar = figure.colorbar(image, ax=axes_list, orientation="horizontal", shrink=0.5, aspect=30)
        bar.set_ticks([-1, 0, 1], labels=["half", "median", "twice"])
    return figure
