"""How parts of a claim become its verdict: one rule for all claims.

A claim has parts (two algorithms, in and out of domain, six benchmarks). Each part holds (+1), is refuted (-1), is left
open by its interval (0), or was not measured (None). What is open is never called refuted.
"""

from __future__ import annotations

from collections.abc import Sequence

from eval.statistics.estimates import Estimate

REPRODUCED, PARTLY, NOT_REPRODUCED = "reproduced", "partly", "not reproduced"
INCONCLUSIVE, NOT_TESTED = "inconclusive", "not tested"
MARGIN = 0.01  # one point: a gain that is shown to be smaller is no gain


def direction(gain: Estimate, margin: float = MARGIN) -> int | None:
    """+1 if a gain is shown, -1 if it is shown to be less than `margin`, 0 if the interval allows both; None without an
    interval.
    """
    if gain.low is None or gain.high is None:
        return None
    return 1 if gain.low > 0 else -1 if gain.high < margin else 0


def verdict(parts: Sequence[int | None]) -> str:
    """The verdict on a claim with these parts."""
    known = [part for part in parts if part is not None]
    if not known:
        return NOT_TESTED
    if all(part == 1 for part in parts):
        return REPRODUCED
    if 1 in known:
        return PARTLY
    return NOT_REPRODUCED if -1 in known else INCONCLUSIVE
