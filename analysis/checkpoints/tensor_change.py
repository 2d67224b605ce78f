"""Measure how much a tensor changed, streaming it from disk in small pieces through a compiled loop.

One pass over both files computes sums in double precision over single-precision pieces: squared changes, absolute
changes, elementwise relative changes |new - old| / (|old| + 1e-8), squared base values, the number of changed elements,
and squared units in the last place (ulp) of the base values. The last sum yields the rounding floor, the relative error
of rounding to the stored precision: sqrt(sum ulp^2 / 12) / ||base||. Memory never holds more than one piece of each
file, regardless of the tensor's size.

The elementwise mean is the measure of the first author's ParamRestore (arXiv 2509.16596), here in single precision.
Weights near zero dominate it: one that moves from 1e-6 to 1e-4 counts as much as a hundred that double.

A base of higher precision than the trained tensor is first rounded as the trained one was stored. So a weight that
training does not move counts as unchanged.

How to read the floor: rounding alone changes nothing, and a change far below the floor is visible. But the stored
change is not the true change. A weight that moves by d << ulp is stored as its neighbor with probability d / ulp, and
then moves by one ulp. The stored change is thus about sqrt(true change x ulp). It is larger than the true change and
mostly shows which weights were near a rounding boundary. Measured in bf16 (normal weights, floor 1.66e-3, normal
steps):

    true relative change    1e-5     1e-4     1e-3     3e-3     1e-2
    stored                  1.9e-4   6.0e-4   1.9e-3   3.7e-3   1.0e-2
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import fsum, sqrt
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from analysis.checkpoints.tensors import ITEM_BYTES, StoredTensor

PIECE = 1 << 19  # Elements per read: both pieces fit in the processor's caches.
# In the loops, uint16 holds the bits of bf16 and int16 those of fp16.
_ARRAY_TYPE = {"BF16": np.uint16, "F16": np.int16, "F32": np.float32}
ROUNDING_MATTERS = 3
MANTISSA_BITS = {"BF16": 7, "F16": 10, "F32": 23, "F64": 52}


@dataclass(frozen=True)
class Sums:
    """Sums over the elements of a tensor, or of several."""

    elements: int
    change_squared: float
    change_absolute: float
    base_squared: float
    ulp_squared: float
    changed: int
    change_elementwise: float = 0.0

    @property
    def relative(self) -> float:
        """Relative Frobenius change ||trained - base|| / ||base||; 0/0 is 0, any other change of a zero base is inf."""
        if self.base_squared == 0:
            return 0.0 if self.change_squared == 0 else float("inf")
        return (
            sqrt(self.change_squared / self.base_squared)
            if self.change_squared == self.change_squared
            else float("nan")
        )

    @property
    def mean_absolute(self) -> float:
        return self.change_absolute / self.elements if self.elements else 0.0

    @property
    def elementwise(self) -> float:
        """Mean over the elements of |new - old| / (|old| + 1e-8)."""
        return self.change_elementwise / self.elements if self.elements else 0.0

    @property
    def changed_share(self) -> float:
        return self.changed / self.elements if self.elements else 0.0

    @property
    def rounding_floor(self) -> float:
        """Relative rounding error of the stored type. `relative` overstates changes below ROUNDING_MATTERS times it."""
        return sqrt(self.ulp_squared / 12 / self.base_squared) if self.base_squared > 0 else 0.0


NOTHING = Sums(0, 0.0, 0.0, 0.0, 0.0, 0)


@intrinsic
def _single(typing_context: Any, value: Any) -> Any:
    """The float32 value of a stored element."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits, single = arguments[0], ir.FloatType()
        if value == types.uint16:
            return builder.bitcast(
                builder.shl(builder.zext(bits, ir.IntType(32)), ir.Constant(ir.IntType(32), 16)), single
            )
        if value == types.int16:
            return builder.fpext(builder.bitcast(bits, ir.HalfType()), single)
        return bits

    return types.float32(value), generate


@intrinsic
def _binade(typing_context: Any, value: Any) -> Any:
    """2 to the exponent of a float32: the value with its sign and mantissa cleared."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.and_(bits, ir.Constant(ir.IntType(32), 0x7F800000)), ir.FloatType())

    return types.float32(types.float32), generate


# Reassociation lets the loop use vector registers. NaN and infinity still propagate to the sums.
@njit(nogil=True, fastmath={"reassoc", "contract", "nsz"}, cache=True)
def _block_sums(base: Any, trained: Any, out: Any) -> None:
    squared = absolute = base_squared = binade_squared = elementwise = np.float32(0)
    changed = np.uint32(0)
    for i in range(base.shape[0]):
        before = _single(base[i])
        change = _single(trained[i]) - before
        binade = _binade(before)
        squared += change * change
        absolute += abs(change)
        elementwise += abs(change) / (abs(before) + np.float32(1e-8))
        base_squared += before * before
        binade_squared += binade * binade
        changed += np.uint32(change != np.float32(0))
    out[0] += squared
    out[1] += absolute
    out[2] += base_squared
    out[3] += binade_squared
    out[4] += changed
    out[5] += elementwise


@njit(nogil=True, cache=True)
def _piece_sums(base: Any, trained: Any, out: Any) -> None:
    # Blocks of 4096 keep the single-precision sums accurate; the totals are in double precision.
    for start in range(0, base.shape[0], 4096):
        _block_sums(base[start : start + 4096], trained[start : start + 4096], out)


def comparable(dtype: str) -> bool:
    """Whether this module can compare elements of this type (float types of 16, 32 and 64 bits)."""
    return dtype in MANTISSA_BITS


class TensorReader:
    """Reads pieces of stored tensors into a reused buffer. Files stay open until `close`."""

    def __init__(self) -> None:
        self._files: dict[Any, int] = {}
        self._buffer = np.empty(0, dtype=np.uint8)

    def read(self, tensor: StoredTensor, start: int, count: int) -> np.ndarray:
        """Elements `start` to `start + count` as `_ARRAY_TYPE` (F64 rounded to float32), valid until the next read."""
        if tensor.path not in self._files:
            self._files[tensor.path] = os.open(tensor.path, os.O_RDONLY)
        size = ITEM_BYTES[tensor.dtype]
        if len(self._buffer) < count * size:
            self._buffer = np.empty(count * size, dtype=np.uint8)
        view: Any = self._buffer[: count * size]
        filled = 0
        while filled < len(view):
            got = os.preadv(
                self._files[tensor.path], [memoryview(view)[filled:]], tensor.offset + start * size + filled
            )
            if not got:
                raise OSError(f"{tensor.path}: the file ended inside tensor {tensor.name!r}; copy the checkpoint again")
            filled += got
        if tensor.dtype == "F64":
            return view.view(np.float64).astype(np.float32)
        return view.view(_ARRAY_TYPE[tensor.dtype])

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()


def piece_sums(base: np.ndarray, trained: np.ndarray, dtype: str) -> Sums:
    """Sums over two pieces of equal length with array types of the loop; `dtype` is the coarser stored type."""
    out = np.zeros(6)
    _piece_sums(base, trained, out)
    return Sums(len(base), out[0], out[1], out[2], out[3] * 4.0 ** -MANTISSA_BITS[dtype], int(out[4]), out[5])


def rounded_to(piece: np.ndarray, dtype: str) -> np.ndarray:
    """A float32 piece as stored in BF16 or F16: to the nearest value, ties to even. Others are returned as they are."""
    if piece.dtype != np.float32 or dtype not in ("BF16", "F16"):
        return piece
    if dtype == "F16":
        return piece.astype(np.float16).view(np.int16)
    bits = piece.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def coarser(one: str, other: str) -> str:
    """The stored type with fewer mantissa bits, whose rounding limits the comparison."""
    return min(one, other, key=lambda dtype: MANTISSA_BITS[dtype])


def compare_tensors(
    pairs: Iterable[tuple[StoredTensor, StoredTensor]],
    threads: int | None = None,
    on_bytes: Callable[[int], Any] | None = None,
) -> list[Sums]:
    """Sums of each `(base, trained)` pair of equal shape. `on_bytes` is called with the size of every piece read.

    The pieces are distributed over `threads` (default: number of cores, at most 4). Sums are added in a fixed order, so
    the result does not depend on the number of threads.
    """
    pairs = list(pairs)
    threads = threads or min(4, os.cpu_count() or 1)

    def pieces() -> Iterator[tuple[int, int, int]]:
        for index, (base, _) in enumerate(pairs):
            for start in range(0, base.elements, PIECE):
                yield index, start, min(PIECE, base.elements - start)

    work = list(pieces())
    results: list[Sums] = [NOTHING] * len(work)

    def run(first: int) -> None:
        base_reader, trained_reader = TensorReader(), TensorReader()
        try:
            for place in range(first, len(work), threads):
                index, start, count = work[place]
                base, trained = pairs[index]
                before = rounded_to(base_reader.read(base, start, count), trained.dtype)
                after = trained_reader.read(trained, start, count)
                results[place] = piece_sums(before, after, coarser(base.dtype, trained.dtype))
                if on_bytes:
                    on_bytes(count * (ITEM_BYTES[base.dtype] + ITEM_BYTES[trained.dtype]))
        finally:
            base_reader.close()
            trained_reader.close()

    if threads == 1 or len(work) <= 1:
        for first in range(threads):
            run(first)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, range(threads)))
    by_pair: list[list[Sums]] = [[] for _ in pairs]
    for (index, _, _), sums in zip(work, results, strict=True):
        by_pair[index].append(sums)
    return [total(found) for found in by_pair]


def total(parts: Iterable[Sums]) -> Sums:
    """Sum of several Sums. It is correctly rounded, so the order does not matter."""
    parts = list(parts)
    return Sums(
        elements=sum(part.elements for part in parts),
        change_squared=fsum(part.change_squared for part in parts),
        change_absolute=fsum(part.change_absolute for part in parts),
        base_squared=fsum(part.base_squared for part in parts),
        ulp_squared=fsum(part.ulp_squared for part in parts),
        changed=sum(part.changed for part in parts),
        change_elementwise=fsum(part.change_elementwise for part in parts),
    )
