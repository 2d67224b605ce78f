"""95% intervals of shares and means."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z = 1.959963984540054


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95% Wilson interval of a share. `successes` may be fractional (a tie counts as a part). (0, 1) if n is 0."""
    if not n:
        return 0.0, 1.0
    share = successes / n
    center = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return max(0.0, center - half), min(1.0, center + half)


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and 1.96 standard errors of it. (nan, nan) without values, a half width of nan for a single one."""
    if not values:
        return math.nan, math.nan
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, Z * math.sqrt(variance / len(values))
