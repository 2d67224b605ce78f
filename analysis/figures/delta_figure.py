"""The heat map of parameter changes: layers by module kinds, as in the paper's figure, with its number in every cell."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from analysis.checkpoints.tensor_change import Sums
from analysis.checkpoints.tensors import KINDS
from analysis.figures.style import SEQUENTIAL_MAP, figure_style, new_figure

CELL_TEXT_LAYERS = 16  # with more layers, numbers in the cells would not be readable


def delta_figure(cells: Mapping[tuple[int | None, str], Sums], label: str = "") -> Figure:
    """Heat map of the relative change in percent; what lies outside the layers has a row of its own at the bottom."""
    kinds = [kind for kind in KINDS if any(found == kind for _, found in cells)]
    layers = sorted({layer for layer, _ in cells if layer is not None})
    lines: list[int | None] = [*layers, *([None] if any(layer is None for layer, _ in cells) else [])]
    grid = np.full((len(lines), len(kinds)), np.nan)
    for (layer, kind), sums in cells.items():
        grid[lines.index(layer), kinds.index(kind)] = 100 * sums.relative
    figure, (axes,) = new_figure(width=1.6 + 0.78 * len(kinds), height=1.5 + min(0.42, 9 / len(lines)) * len(lines))
    with figure_style():
        axes.grid(False)
        image = axes.imshow(grid, cmap=SEQUENTIAL_MAP, aspect="auto", vmin=0)
        axes.set_xticks(range(len(kinds)), kinds)
        every = max(1, len(lines) // CELL_TEXT_LAYERS)
        shown = [place for place in range(len(lines)) if lines[place] is None or place % every == 0]
        axes.set_yticks(shown, ["outside" if lines[place] is None else str(lines[place]) for place in shown])
        axes.set(
            xlabel="kind of module",
            ylabel="layer",
            title=f"Relative change of the weights{': ' + label if label else ''}",
        )
        if len(lines) <= CELL_TEXT_LAYERS:
            middle = np.nanmax(grid) / 2
            for row, column in np.argwhere(~np.isnan(grid)):
                value = grid[row, column]
                colour = "white" if value < middle else "black"
                axes.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=8, color=colour)
        figure.colorbar(image, ax=axes, label="relative change (% of ||base||)")
    return figure
