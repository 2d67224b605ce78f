"""The reward of one model turn as pure functions of (p, q, t, kind): one table with one row per variant.

p: tool calls in the turn; q: sub-questions that the turn solves; t: sub-questions unsolved before it; kind: the kind of
turn. The paper's variants differ only in the row "calls". `solve_f1_stop_penalty` is ours: in the paper's reward a turn
that stops with sub-questions open and gives no right answer earns 0, as much as a call that solves nothing. Here it
costs as much as an empty turn. To add a variant, add a row to REWARDS.
Source: paper section 3.2 and its ablation (paper/README.md, "Reward for one model turn").
"""

from __future__ import annotations

from collections.abc import Callable

KINDS = ("calls", "empty", "malformed", "answer", "all_solved_no_answer", "other")
Reward = Callable[[int, int, int, str], float]


def _turn_reward(of_calls: Callable[[int, int], float], stopped: float = 0.0) -> Reward:
    """The complete reward from its formula for turns with calls, `of_calls(p, q)`: p >= 1 and 0 <= q <= min(p, t).

    `stopped`: what a turn earns that ends the episode with sub-questions open and without the right answer.
    """
    fixed = {"empty": -0.5, "malformed": -0.3, "all_solved_no_answer": 0.5, "other": stopped}

    def reward(p: int, q: int, t: int, kind: str) -> float:
        if kind == "calls":
            return of_calls(p, q)
        if kind == "answer":
            return 1 / (t + 1)
        return fixed[kind]

    return reward


REWARDS: dict[str, Reward] = {
    "solve_f1": _turn_reward(lambda p, q: 2 * q / (p + 1)),
    "solve_precision": _turn_reward(lambda p, q: q / p),
    "solve_recall": _turn_reward(lambda p, q: float(q)),
    "solve_pr": _turn_reward(lambda p, q: q * q / p),
    "solve_f1_stop_penalty": _turn_reward(lambda p, q: 2 * q / (p + 1), stopped=-0.5),
}
