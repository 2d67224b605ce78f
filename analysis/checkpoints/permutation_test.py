"""Exact permutation test of the paper's claim that the MLP of the lowest layers changes most (section 5).

The units are cells, one per layer and block (attention or MLP), each with its relative change. Two tests, both
one-sided:
- `among MLPs`: is the mean change of the k lowest layers' MLPs above that of the other MLPs? All C(L, k) choices of k
  layers.
- `among all blocks`: the same k cells against all other cells, attention included. All C(2L, k) choices of k cells.
k is 3, as in the paper (layers 0 to 2), or a third of the layers (at least 1) where there are fewer than 7. The
smallest p-value that a test can give is 1 / number of choices; above 0.05 the model has too few layers for the claim to
be significant at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

LOWER_LAYERS = 3
LEVEL = 0.05


@dataclass(frozen=True)
class PermutationResult:
    """One test: `difference` is the mean of the k lowest MLP cells minus the mean of the others."""

    name: str
    measure: str
    lower_layers: int
    cells: int
    difference: float
    p_value: float
    smallest_p: float

    @property
    def can_be_significant(self) -> bool:
        return self.smallest_p <= LEVEL

    def sentence(self) -> str:
        head = f"{self.name}, {self.measure}: {layers_text(self.lower_layers)} of {self.cells} cells, difference {self.difference:+.2e}, "
        if not self.can_be_significant:
            few = f"too few layers to reach significance (smallest possible p = {self.smallest_p:.3f})"
            return head + f"p = {self.p_value:.3f}; {few}"
        verdict = "significant" if self.p_value <= LEVEL else "not significant"
        return head + f"exact p = {self.p_value:.4f}, {verdict} at {LEVEL}"


def lower_count(layers: int) -> int:
    """How many layers count as lower: the paper's three, unless that were half of the layers or more."""
    return LOWER_LAYERS if layers > 2 * LOWER_LAYERS else max(1, layers // 3)


def layers_text(count: int) -> str:
    """`layers 0-2` for the three lowest."""
    return f"layers 0-{count - 1}" if count > 1 else "layer 0"


def exact_test(name: str, values: Sequence[float], chosen: int, measure: str = "") -> PermutationResult:
    """Is the mean of the first `chosen` values above that of the others, over all choices of as many cells?

    A difference that ties with the observed one (up to rounding) counts as at least as large.
    """
    array = np.asarray(values, dtype=float)
    choices = comb(len(array), chosen)
    observed = array[:chosen].sum()
    slack = 1e-12 * max(1e-300, np.abs(array).sum())
    at_least = 0
    block: list[tuple[int, ...]] = []
    for combination in combinations(range(len(array)), chosen):
        block.append(combination)
        if len(block) == 200_000:
            at_least += int((array[np.array(block)].sum(axis=1) >= observed - slack).sum())
            block.clear()
    if block:
        at_least += int((array[np.array(block)].sum(axis=1) >= observed - slack).sum())
    rest = array[chosen:]
    difference = float(array[:chosen].mean() - rest.mean()) if len(rest) else 0.0
    return PermutationResult(name, measure, chosen, len(array), difference, at_least / choices, 1 / choices)


def lower_mlp_tests(
    mlp: Mapping[int, float], attention: Mapping[int, float], measure: str = "relative norm"
) -> list[PermutationResult]:
    """Both tests, from the change of each layer's MLP and attention in one measure; [] with fewer than two layers of
    MLP.
    """
    layers = sorted(mlp)
    if len(layers) < 2:
        return []
    count = lower_count(len(layers))
    ordered = [mlp[layer] for layer in layers]
    tests = [exact_test("among MLPs", ordered, count, measure)]
    if attention:
        every = [*ordered, *(attention[layer] for layer in sorted(attention))]
        tests.append(exact_test("among all blocks", every, count, measure))
    return tests
