"""Evaluate mixtures of a start and a trained model, and compute the share of the gain that each keeps or loses.

The results of a mixture are in RUN/restore/<policy>/<name>/ (resumable). Its weights are deleted after the evaluation.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from analysis.run_data.intervals import EMPTY, Row, statistics_of_totals
from analysis.run_data.run_folder import Run, read_json
from env_construction.environment.jsonl import BadInput, file_sha256, keep_configuration, read_jsonl
from eval.environments import evaluate
from eval.statistics.estimates import Estimate
from eval.suites.results import case_values
from eval.suites.suite import SAMPLING
from train.policies.identity import checkpoint_identity
from train.policies.specs import load_policy

Writer = Callable[[Path, Path, Path], Any]
"""Writes a mixture of `(start, trained)` into a folder."""


def checkpoints(run: Run, policy: str) -> tuple[Path, Path]:
    """`(folder of the start's weights, folder of the policy's weights)`. Raises BadInput if one is missing."""
    names = run.roles[policy].start, policy
    found = [run.checkpoint(name) for name in names if name]
    if len(found) < 2 or found[0] is None or found[1] is None:
        raise BadInput(
            f"{run.path}: no checkpoint of {names[0] or 'a start'!r} or of {policy!r}; the test needs both, "
            f"so copy them into the run, such as train/{policy}/epoch<k>/checkpoint/"
        )
    return found[0], found[1]


def measure_mixtures(
    run: Run,
    policy: str,
    mixtures: Mapping[str, tuple[Writer, Mapping[str, Any]]],
    limit: int | None = None,
    batch_size: int = 64,
    part: tuple[int, int] = (1, 1),
) -> None:
    """Write and evaluate the mixtures `{name: (writer, its settings)}` without complete results. Raises BadInput.

    `part`: (k, n) measures every n-th mixture from the k-th on.
    """
    start, trained = checkpoints(run, policy)
    environments = list(run.environments().values())[:limit]
    if not environments:
        raise BadInput(f"{run.path / 'environments' / 'test.jsonl'}: missing or empty; restore the run's environments")
    evaluated = run.path / "eval" / policy / "configuration.json"
    settings = read_json(evaluated) if evaluated.is_file() else {}
    contents = {
        "start_content": checkpoint_identity(start),
        "trained_content": checkpoint_identity(trained),
        "environments_sha256": file_sha256(run.path / "environments" / "test.jsonl"),
    }
    chosen_mixtures = list(mixtures.items())[part[0] - 1 :: part[1]]
    for name, (write, own) in tqdm(chosen_mixtures, desc=f"mixtures of {policy}", unit="model", disable=None):
        out = run.path / "restore" / policy / name
        configuration = {key: settings.get(key) for key in (*SAMPLING, "max_turns", "match")}
        configuration |= contents | dict(own) | {"environments": len(environments)}
        keep_configuration(out, configuration, may_grow=("environments",))
        if (out / "results.jsonl").is_file() and sum(1 for _ in read_jsonl(out / "results.jsonl")) >= len(environments):
            continue
        weights = out / "weights"
        write(start, trained, weights)
        chosen = {key: settings[key] for key in SAMPLING if settings.get(key) is not None}
        model = load_policy(f"hf:{weights}", batch_size=batch_size, **chosen)
        evaluate(
            model, environments, out, seed=int(settings.get("seed") or 0),
            max_turns=int(settings.get("max_turns") or 20), match=settings.get("match") or "published",
        )  # fmt: skip
        shutil.rmtree(weights)


def mixture_rows(run: Run, policy: str, name: str) -> list[dict[str, Any]]:
    """The result rows of a mixture; [] if it was not measured."""
    path = run.path / "restore" / policy / name / "results.jsonl"
    return [row for _, row in read_jsonl(path, required=("id",))] if path.is_file() else []


def share_of_gain(
    start: Sequence[Row], trained: Sequence[Row], mixed: Sequence[Row], lost: bool, metric: str = "solve_f1"
) -> Estimate:
    """Share of the gain that a mixture has or, if `lost`, lacks, over the cases that all three share."""
    values = [
        {case: sum(v) / len(v) for case, v in case_values(rows, metric).items()} for rows in (start, trained, mixed)
    ]
    shared = values[0].keys() & values[1].keys() & values[2].keys()
    groups = {case: np.array([column[case] for column in values]) for case in shared}

    def share(means: np.ndarray) -> np.ndarray:
        before, after, between = means.T
        part = after - between if lost else between - before
        gain = after - before
        return np.divide(part, gain, out=np.full_like(part, np.nan), where=np.abs(gain) > 1e-9)[:, None]

    found = statistics_of_totals(groups, share) if groups else []
    return found[0] if found else EMPTY
