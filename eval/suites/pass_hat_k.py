"""pass^k: the chance that k independent trials of a task all succeed, by domain and as the unweighted domain mean.

Input: result rows with `id`, `domain` and a 0/1 `reward`. Output: estimates with 95% intervals.

A task with c successes in n trials contributes C(c, k) / C(n, k). This unbiased estimate is the share of its k-subsets
of trials without a failure. Trials lost to a fault are not part of n. A task with fewer than k remaining trials has no
pass^k and is not counted.

Source: tau-bench (arXiv 2406.12045), section on pass^k; paper/README.md (every published cell is an unweighted mean of
the domains).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from eval.suites.results import GroupedMean, Row, estimate, smallest_resolvable_difference


def pass_hat_k(successes: int, trials: int, k: int) -> float:
    """C(successes, k) / C(trials, k). Raises ValueError unless 1 <= k <= trials and 0 <= successes <= trials."""
    if not (1 <= k <= trials and 0 <= successes <= trials):
        raise ValueError(f"expected 1 <= k <= trials and 0 <= successes <= trials, got {k}, {trials}, {successes}")
    return math.comb(successes, k) / math.comb(trials, k)


def task_rows(rows: Sequence[Row], k: int) -> list[dict[str, Any]]:
    """One row per task with at least k trials: `id`, `domain` and its `pass_hat_k`."""
    rewards: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        rewards.setdefault((row["domain"], row["id"]), []).append(row["reward"])
    return [
        {"id": task, "domain": domain, "pass_hat_k": pass_hat_k(round(sum(values)), len(values), k)}
        for (domain, task), values in rewards.items()
        if len(values) >= k
    ]


def pass_hat_k_tables(rows: Sequence[Row], domains: Sequence[str], trials: int, seed: int = 0) -> dict[str, Any]:
    """`{"mean": {"pass^1": estimate, ...}, domain: {...}}` for k = 1 ... trials. No mean if a domain has no task."""
    tables: dict[str, Any] = {name: {} for name in ("mean", *domains)}
    weights = {domain: 1 / len(domains) for domain in domains}
    for k in range(1, trials + 1):
        tasks = task_rows(rows, k)
        mean = GroupedMean(f"pass^{k}", "pass_hat_k", "domain", weights)
        tables["mean"][mean.name] = estimate(tasks, mean, seed).as_dict()
        for domain in domains:
            own = [task for task in tasks if task["domain"] == domain]
            tables[domain][mean.name] = estimate(own, "pass_hat_k", seed).as_dict()
    return tables


def resolvable_difference(rows: Sequence[Row], domains: Sequence[str]) -> float | None:
    """The paired difference in pass^1 that these tasks resolve, with equally weighted domains."""
    mean = GroupedMean("pass^1", "pass_hat_k", "domain", {domain: 1 / len(domains) for domain in domains})
    return smallest_resolvable_difference(task_rows(rows, 1), mean)
