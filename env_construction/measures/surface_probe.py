"""A probe that sees only a tool's surface: can counts, positions and lengths tell needed from unneeded tools?

It reads no word. Its features are numbers of parameters by kind, the length of name, description and document, and the
place in the list, each also relative to the other tools of the environment. Two classifiers (logistic regression, and
gradient boosting, which finds interactions) are cross-validated over environments, so no environment is in both parts.
The base rate is the accuracy of the majority class of each scenario. The probe may be better by MARGIN at most.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from env_construction.environment.schema import SCENARIOS, Environment, ToolDocument
from env_construction.measures.intervals import mean_and_half_width

MARGIN = 0.05
FOLDS = 5
FEWEST = 10
"""The probe needs this many environments."""
_KINDS = ("string", "boolean", "object", "number", "array", "integer")


@dataclass(frozen=True)
class ProbeResult:
    """`accuracy` of the better classifier, named `model`; `gain` over `base_rate`, with its 95% interval.

    `gain` is averaged over environments, so it differs a little from accuracy minus base rate, which count tools.
    """

    environments: int
    tools: int
    model: str
    accuracy: float
    base_rate: float
    gain: float
    low: float
    high: float

    @property
    def leaks(self) -> bool:
        return self.low > MARGIN


def features_of(tool: ToolDocument, place: int) -> list[float]:
    """The surface of one tool."""
    properties = tool.parameters.get("properties") or {}
    schemas = [schema if isinstance(schema, dict) else {} for schema in properties.values()]
    described = [len(str(schema.get("description", ""))) for schema in schemas]
    return [
        float(value)
        for value in (
            place,
            len(properties),
            len(tool.parameters.get("required") or ()),
            sum("enum" in schema for schema in schemas),
            sum("default" in schema for schema in schemas),
            sum("format" in schema for schema in schemas),
            *(sum(schema.get("type") == kind for schema in schemas) for kind in _KINDS),
            len(tool.name),
            tool.name.count("_"),
            len(tool.description),
            sum(described),
            max(described, default=0),
            len(json.dumps(tool.parameters, ensure_ascii=False)),
        )
    ]


def probe_data(environments: Sequence[Environment]) -> tuple[Any, Any, Any, Any]:
    """(features, needed, environment number, scenario number), one row per tool."""
    rows: list[Any] = []
    needed: list[bool] = []
    groups: list[int] = []
    scenarios: list[int] = []
    names: list[str | None] = [*SCENARIOS, None]
    for number, environment in enumerate(environments):
        own = np.array([features_of(tool, place) for place, tool in enumerate(environment.tools)])
        if not len(own):
            continue
        scenario = names.index(environment.scenario)
        one_hot = np.tile(np.eye(len(names))[scenario], (len(own), 1))
        rows.append(np.hstack([own, own - own.mean(axis=0), own - own.min(axis=0), one_hot]))
        needed += [bool(environment.unsolved_set.get(tool.name)) for tool in environment.tools]
        groups += [number] * len(own)
        scenarios += [scenario] * len(own)
    return np.vstack(rows), np.array(needed), np.array(groups), np.array(scenarios)


def probe(environments: Sequence[Environment]) -> ProbeResult | None:
    """The result of the better of two classifiers. None for fewer than FEWEST environments, or tools all of a kind."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(environments) < FEWEST:
        return None
    features, needed, groups, scenarios = probe_data(environments)
    if len(set(groups)) < FEWEST or len(set(needed)) < 2:
        return None
    folds = GroupKFold(FOLDS)
    base = np.zeros(len(needed))
    for scenario in set(scenarios):
        chosen = scenarios == scenario
        majority = needed[chosen].mean() >= 0.5
        base[chosen] = needed[chosen] == majority
    models = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.3)),
        "gradient boosting": HistGradientBoostingClassifier(
            max_iter=60, max_depth=3, learning_rate=0.1, min_samples_leaf=10, random_state=0
        ),
    }
    right = {
        name: cross_val_predict(model, features, needed, groups=groups, cv=folds) == needed
        for name, model in models.items()
    }
    best = max(right, key=lambda name: right[name].mean())
    gains = [float(right[best][groups == group].mean() - base[groups == group].mean()) for group in sorted(set(groups))]
    gain, half = mean_and_half_width(gains)
    return ProbeResult(
        len(gains), len(needed), best, float(right[best].mean()), float(base.mean()), gain, gain - half, gain + half
    )


def describe_probe(result: ProbeResult | None) -> str:
    if result is None:
        return f"surface probe: not run (needs {FEWEST} environments with needed and unneeded tools)"
    return (
        f"surface probe ({result.model}): tells needed tools with accuracy {result.accuracy:.3f}, base rate "
        f"{result.base_rate:.3f}, gain {result.gain:+.3f} [{result.low:+.3f}, {result.high:+.3f}] "
        f"(n = {result.environments} environments, {result.tools} tools; at most {MARGIN:+.2f} allowed)"
        f"{': LEAKS' if result.leaks else ''}"
    )
