"""Which elements of a model changed most, ranked over the whole model by |new - old| / (|old| + 1e-8).

That is the ranking of ParamRestore (arXiv 2509.16596), in single precision. The k-th value is found exactly in two
passes over the tensors: a count by the upper 16 bits of the value (bits of floats of one sign sort like the floats),
then by the lower 16 bits in the one class that holds it. Of elements that tie with it, which bf16 makes many of, a
seeded share is taken.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from analysis.checkpoints.mixed_checkpoint import Pair, load

ORDERS = ("top", "bottom", "random")
SMALL = 1e-8


def relative_bits(before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
    """The bits of each element's relative change as whole numbers that sort alike."""
    old = before.float()
    ratio = (after.float() - old).abs() / (old.abs() + SMALL)
    return ratio.flatten().contiguous().numpy().view(np.int32)


@dataclass(frozen=True)
class Selection:
    """The elements of one order: all beyond `threshold` (bits), and the share `ties` of those that equal it."""

    order: str
    share: float
    threshold: int
    ties: float
    seed: int

    def mask(self, name: str, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Which elements of the tensor are selected."""
        draw = np.random.default_rng([self.seed, zlib.crc32(name.encode())]).random(before.numel())
        if self.order == "random":
            chosen = draw < self.share
        else:
            bits = relative_bits(before, after)
            beyond = bits > self.threshold if self.order == "top" else bits < self.threshold
            chosen = beyond | ((bits == self.threshold) & (draw < self.ties))
        return torch.from_numpy(chosen).reshape(before.shape)


def select(pairs: dict[str, Pair], order: str, share: float, seed: int = 0) -> Selection:
    """The top, bottom or random `share` (0 to 1) of all elements."""
    if order == "random":
        return Selection(order, share, 0, 0.0, seed)
    upper = _counts(pairs, lambda bits: bits >> 16)
    wanted = round(share * int(upper.sum()))
    high, left = _place(upper, wanted, order)
    lower = _counts(pairs, lambda bits: bits[bits >> 16 == high] & 0xFFFF)
    low, left = _place(lower, left, order)
    tied = int(lower[low])
    return Selection(order, share, int(high << 16 | low), left / tied if tied else 0.0, seed)


def _counts(pairs: dict[str, Pair], key: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    counts = np.zeros(1 << 16, dtype=np.int64)
    for bits in _all_bits(pairs):
        counts += np.bincount(key(bits), minlength=1 << 16)
    return counts


def _all_bits(pairs: dict[str, Pair]) -> Iterator[np.ndarray]:
    for old, new in pairs.values():
        yield relative_bits(load(old), load(new))


def _place(counts: np.ndarray, wanted: int, order: str) -> tuple[int, int]:
    """`(class that holds the last wanted element, how many are wanted of it)`, counted from the top or the bottom."""
    places = np.arange(len(counts))[:: -1 if order == "top" else 1]
    passed = np.cumsum(counts[places])
    index = min(int(np.searchsorted(passed, wanted)), len(places) - 1)
    return int(places[index]), wanted - int(passed[index] - counts[places[index]])
