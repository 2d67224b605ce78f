"""The reward for TRL: pass `reward_func` to a trainer together with a dataset from `serving.export --to trl`.

In: `prompts`, `completions` and the column `label`. A completion is a text, or a list of messages with calls in the
text or in `tool_calls`.
Out: one reward for each completion. After a sandbox failure it is None, which TRL ignores.

Example:
    trainer = GRPOTrainer(model, reward_funcs=reward_func, train_dataset=load_dataset("exported")["train"], args=...)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from serving.episodes.recorded import turn_text
from serving.exports.labels import score_labels


def reward_func(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    label: Sequence[str],
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Score all completions in one sandbox batch. Raises BadInput for a label that `serving.export` did not write."""
    scored = score_labels([(text, turns_of(completion)) for text, completion in zip(label, completions, strict=True)])
    if log_metric is not None and scored:
        outcomes = [outcome for _, outcome in scored]
        log_metric("solve_f1", sum(outcome.score.solve_f1 for outcome in outcomes) / len(outcomes))
        log_metric("sandbox_faults", float(sum(outcome.fault for outcome in outcomes)))
    return [reward for reward, _ in scored]


def turns_of(completion: Any) -> list[str]:
    """The model's turns in a completion, without the tool messages."""
    if isinstance(completion, str):
        return [completion]
    return [turn_text(message) for message in completion if message["role"] == "assistant"]
