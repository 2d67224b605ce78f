"""The reward of one model turn as pure functions of (p, q, t, kind): one table with one row per variant.

p: tool calls in the turn; q: sub-questions that the turn solves; t: sub-questions unsolved before it; kind: the kind of
turn. The variants differ only in the row "calls". To add a variant, add a row to REWARDS.
Source: paper section 3.2 and its ablation (paper/README.md, "Reward for one model turn").
"""

from __future__ import annotations

from collections.abc import Callable

KINDS = ("calls", "empty", "malformed", "answer", "all_solved_no_answer", "other")
Reward = Callable[[int, int, int, str], float]


def _turn_reward(of_calls: Callable[[int, int], float]) -> Reward:
    """The complete reward from its formula for turns with calls, `of_calls(p, q)`: p >= 1 and 0 <= q <= min(p, t)."""

    def reward(p: int, q: int, t: int, kind: str) -> float:
        if kind == "calls":
            return of_calls(p, q)
        if kind == "answer":
            return 1 / (t + 1)
        return _FIXED[kind]

    return reward


_FIXED = {"empty": -0.5, "malformed": -0.3, "all_solved_no_answer": 0.5, "other": 0.0}

REWARDS: dict[str, Reward] = {
    "solve_f1": _turn_reward(lambda p, q: 2 * q / (p + 1)),
    "solve_precision": _turn_reward(lambda p, q: q / p),
    "solve_recall": _turn_reward(lambda p, q: float(q)),
    "solve_pr": _turn_reward(lambda p, q: q * q / p),
}
