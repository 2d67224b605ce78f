"""Stable rank of a change D = trained - base: ||D||_F^2 / sigma_1^2, from 1 (rank one) to min(shape) (all directions
alike).

The largest singular value sigma_1 comes from block power iteration on D^T D; D is formed a few rows at a time in every
pass, so that the memory does not grow with the tensor. It needs several passes over both files: `--spectral` is slow.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch

from analysis.checkpoints.tensor_change import TensorReader
from analysis.checkpoints.tensors import StoredTensor

ROWS_BYTES = 64 << 20
BLOCK, TOLERANCE, PASSES = 8, 1e-3, 30
_TORCH_TYPE = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float32}


def _rows(reader: TensorReader, tensor: StoredTensor, first: int, last: int) -> torch.Tensor:
    columns = tensor.shape[1]
    bits = reader.read(tensor, first * columns, (last - first) * columns)
    if tensor.dtype in ("BF16", "F16"):
        return torch.from_numpy(bits.view(np.int16)).view(_TORCH_TYPE[tensor.dtype]).float().reshape(-1, columns)
    return torch.from_numpy(bits).clone().reshape(-1, columns)


def stable_rank(base: StoredTensor, trained: StoredTensor, change_squared: float, seed: int = 0) -> float | None:
    """Stable rank of the change of a matrix; None for what is no matrix or did not change.

    sigma_1 is iterated until it grows by less than a thousandth (at most 30 passes), so the result is an upper bound
    that is tight to about a part in 500.
    """
    if len(base.shape) != 2 or not change_squared > 0:
        return None
    rows, columns = base.shape
    step = max(1, ROWS_BYTES // (4 * columns))
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(columns, min(BLOCK, columns, rows), generator=generator))[0]
    before, after = TensorReader(), TensorReader()
    sigma_squared = 0.0
    for _ in range(PASSES):
        image = torch.zeros_like(vectors)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            change = _rows(after, trained, first, last) - _rows(before, base, first, last)
            image += change.T @ (change @ vectors)
        found = float(torch.linalg.matrix_norm(image, ord=2))
        converged = found - sigma_squared <= TOLERANCE * found
        sigma_squared = max(found, sigma_squared)
        if converged or found == 0.0:
            break
        vectors = torch.linalg.qr(image)[0]
    before.close()
    after.close()
    return change_squared / sigma_squared if sqrt(sigma_squared) > 0 else None
