"""Count what a data set contains: the rows of the published table, and other measures of whether two data sets differ.

`Tally` counts one environment at a time in constant memory and can be summed over processes. `comparison` puts two
tallies side by side. Rows follow "The published data, counted" in paper/README.md.

In: environments (JSONL or Parquet), ours or the authors'. Out: a table on the screen, each row beside the published
one, and the surface probe (`measures/surface_probe.py`): counts, positions and lengths must not tell needed from
unneeded tools. With --out, also JSON. The exit code is 1 if they tell.

Example:
    python -m env_construction.data_statistics outputs/demo/environments/train.jsonl --out outputs/demo/counted.json
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import SCENARIOS, Environment, read_environments
from env_construction.environment.tool_schema import required_of
from env_construction.measures.shortcuts import enumeration_arguments
from env_construction.measures.surface_probe import describe_probe, probe

PROBED = 1000
"""Environments that the surface probe sees at most."""
PARAMETER_TYPES = ("string", "boolean", "object", "number", "array", "integer")
_PIECE = re.compile(r"\w+|[^\w\s]")
_DATE = re.compile(r"\d{4}-\d\d-\d\d|[A-Z][a-z]+ \d{1,2}, \d{4}|\d{1,2} [A-Z][a-z]+ \d{4}")
_NUMBER = re.compile(r"[+-]?[\d,]+(\.\d+)?( ?(%|[A-Za-z]{1,3}2?))?")


def answer_kind(answer: str) -> str:
    """The kind of an answer: text, number or date."""
    if _DATE.fullmatch(answer.strip()):
        return "date"
    return "number" if _NUMBER.fullmatch(answer.strip()) else "text"


class Tally:
    """Sums over environments. `counts` keys are "scenario/what" or "what"; `histograms` are {what: {value: count}}."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.histograms: dict[str, Counter[str]] = {}

    def add(self, environment: Environment, sign: int = 1) -> None:
        """Add an environment to the counts, or remove it with `sign` -1."""
        single = Tally()
        single._count(environment)
        self.merge(single, sign)

    def _count(self, environment: Environment) -> None:
        scenario = environment.scenario or "unknown"
        answers = [answer for listed in environment.unsolved_set.values() for answer in listed]
        documents = [json.dumps(tool.as_openai(), ensure_ascii=False) for tool in environment.tools]
        needed = sum(1 for listed in environment.unsolved_set.values() if listed)
        self.counts[f"{scenario}/environments"] += 1
        self.counts[f"{scenario}/sub-questions"] += len(answers)
        self.counts[f"{scenario}/tools"] += len(environment.tools)
        self.counts[f"{scenario}/needed tools"] += needed
        self.counts[f"{scenario}/document characters"] += sum(map(len, documents))
        self._histogram("scenario", scenario)
        self._histogram(f"sub-questions, {scenario}", len(answers))
        self._histogram("tools per environment", len(environment.tools))
        text = environment.question + "".join(documents)
        tokens = len(_PIECE.findall(text))
        self.counts["prompt tokens"] += tokens
        self._histogram("prompt tokens (words and signs)", 100 * (tokens // 100))
        for tool in environment.tools:
            self._add_tool(scenario, tool.parameters)
        for source in environment.codes.values():
            self.counts["tools"] += 1
            self.counts["code characters"] += len(source)
        for answer in answers:
            self._histogram("answer kind", answer_kind(str(answer)))
        required = {tool.name: set(required_of(tool.parameters)) for tool in environment.tools}
        for call in environment.gold_plan:
            self.counts["gold calls"] += 1
            self.counts["gold calls with an optional argument"] += bool(
                call.arguments.keys() - required.get(call.name, set())
            )
        for value, choices in enumeration_arguments(environment):
            self.counts["gold choices"] += 1
            self.counts["gold choices that stand first"] += value == choices[0]
        for constraint in environment.constraints:
            self._histogram("constraint", constraint.kind)
        provenance = environment.provenance
        if "merge" in provenance:
            self.counts["documents"] += provenance["merge"]["documents"]
            self.counts["merged tools"] += provenance["merge"]["tools"]
        for strategy, changed in provenance.get("scaling", {}).items():
            self._histogram("tools changed by strategy", strategy, changed)
        for key in ("answer_rule", "counterfactual"):
            if key in provenance:
                self._histogram(key.replace("_", " "), str(provenance[key]).lower())
        for relation in provenance.get("functions", []):
            self._histogram("relation", relation)
        labels = provenance.get("labels", {})
        for domain in labels.get("domains", []):
            self._histogram("domain", domain)
        for function in labels.get("function_classes", []):
            self._histogram("function class", function)

    def _add_tool(self, scenario: str, parameters: dict[str, Any]) -> None:
        properties = parameters.get("properties") or {}
        self.counts[f"{scenario}/parameters"] += len(properties)
        self.counts[f"{scenario}/required parameters"] += len(required_of(parameters))
        for rule in properties.values():
            schema = rule if isinstance(rule, dict) else {}  # JSON Schema allows true and false
            self.counts["parameters"] += 1
            self._histogram("parameter type", str(schema.get("type", "any")))
            self.counts["parameters with enum"] += "enum" in schema
            self.counts["parameters with default"] += "default" in schema

    def _histogram(self, name: str, value: object, by: int = 1) -> None:
        self.histograms.setdefault(name, Counter())[str(value)] += by

    def merge(self, other: Tally, sign: int = 1) -> None:
        for name, value in other.counts.items():
            self.counts[name] += sign * value
        for name, histogram in other.histograms.items():
            mine = self.histograms.setdefault(name, Counter())
            for key, value in histogram.items():
                mine[key] += sign * value

    def to_state(self) -> dict[str, Any]:
        """The complete state as JSON."""
        return {"counts": self.counts, "histograms": self.histograms}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Tally:
        counted = cls()
        counted.counts = Counter(state["counts"])
        counted.histograms = {name: Counter(values) for name, values in state["histograms"].items()}
        return counted

    def rows(self) -> dict[str, float]:
        """The rows of the published table: means and shares by row name."""
        rows: dict[str, float] = {}
        for scenario in SCENARIOS:
            number, tools = self.counts[f"{scenario}/environments"], self.counts[f"{scenario}/tools"]
            if not number or not tools:
                continue
            for what in ("sub-questions", "tools", "needed tools"):
                rows[f"{scenario}: {what}"] = self.counts[f"{scenario}/{what}"] / number
            for what in ("parameters", "required parameters"):
                rows[f"{scenario}: {what} a tool"] = self.counts[f"{scenario}/{what}"] / tools
            rows[f"{scenario}: document characters"] = self.counts[f"{scenario}/document characters"] / number
        total = max(1, self.counts["parameters"])
        for kind in PARAMETER_TYPES:
            rows[f"parameter type {kind}"] = self.histograms.get("parameter type", Counter())[kind] / total
        rows["parameters with enum"] = self.counts["parameters with enum"] / total
        rows["parameters with default"] = self.counts["parameters with default"] / total
        rows["code characters a tool"] = self.counts["code characters"] / max(1, self.counts["tools"])
        kinds = self.histograms.get("answer kind", Counter())
        for kind in ("text", "number", "date"):
            rows[f"sub-answers: {kind}"] = kinds[kind] / max(1, sum(kinds.values()))
        for what, of in (
            ("gold calls with an optional argument", "gold calls"),
            ("gold choices that stand first", "gold choices"),
        ):
            if self.counts[of]:
                rows[what] = self.counts[what] / self.counts[of]
        return rows

    def to_record(self) -> dict[str, Any]:
        """The record in statistics.json, sorted so that it is deterministic."""
        return {
            "rows": {name: round(value, 4) for name, value in self.rows().items()},
            "merge rate": round(1 - self.counts["merged tools"] / self.counts["documents"], 4)
            if self.counts["documents"]
            else None,
            "counts": dict(sorted(self.counts.items())),
            "histograms": {
                name: {value: count for value, count in sorted(values.items()) if count}
                for name, values in sorted(self.histograms.items())
            },
        }


def tally(environments: Iterable[Environment]) -> Tally:
    counted = Tally()
    for environment in environments:
        counted.add(environment)
    return counted


# The published test split, counted (paper/README.md). Its 23% integer sub-answers count as numbers here.
PUBLISHED: dict[str, float] = {
    f"{scenario}: {what}": value
    for scenario, values in {
        "single_hop": (1, 8.0, 1.0, 7.3, 2.5, 13_300),
        "parallel_single_hop": (2.0, 7.5, 1.4, 6.9, 1.7, 12_500),
        "multi_hop": (5.7, 10.3, 5.7, 7.3, 1.3, 17_600),
        "parallel_multi_hop": (7.7, 11.3, 7.5, 7.0, 1.3, 19_000),
    }.items()
    for what, value in zip(
        (
            "sub-questions",
            "tools",
            "needed tools",
            "parameters a tool",
            "required parameters a tool",
            "document characters",
        ),
        values,
        strict=True,
    )
} | {
    "parameter type string": 0.67,
    "parameter type boolean": 0.18,
    "parameter type object": 0.04,
    "parameter type number": 0.04,
    "parameter type array": 0.03,
    "parameter type integer": 0.03,
    "parameters with enum": 0.26,
    "parameters with default": 0.30,
    "code characters a tool": 2_200,
    "sub-answers: text": 0.73,
    "sub-answers: number": 0.23,
    "sub-answers: date": 0.02,
}


def comparison(rows: dict[str, float], reference: dict[str, float]) -> list[tuple[str, float, float, float]]:
    """(row, reference, value here, relative difference) for every row of the reference."""
    return [(name, value, rows.get(name, 0.0), rows.get(name, 0.0) / value - 1) for name, value in reference.items()]


def main() -> int:
    parser = ScriptParser(__doc__, "python -m env_construction.data_statistics")
    parser.add_argument("file", type=Path, help="environments, JSONL or Parquet")
    parser.add_argument("--out", type=Path, help="JSON with all counts and histograms")
    arguments = parser.parse_args()
    counted = Tally()
    kept: list[Environment] = []
    for environment in tqdm(read_environments(arguments.file), desc="count", unit="env", disable=None):
        counted.add(environment)
        if len(kept) < PROBED:
            kept.append(environment)
    probed = probe(kept)
    print(f"{'':50}{'published':>12}{'here':>12}{'difference':>12}")
    for name, reference, here, difference in comparison(counted.rows(), PUBLISHED):
        print(f"{name:50}{reference:>12,.2f}{here:>12,.2f}{difference:>+12.1%}")
    for name, here in counted.rows().items():
        if name not in PUBLISHED:
            print(f"{name:50}{'':>12}{here:>12,.2f}")
    print(describe_probe(probed))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        record = counted.to_record() | {"surface probe": asdict(probed) if probed else None}
        arguments.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"wrote {arguments.out}")
    return 1 if probed and probed.leaks else 0


if __name__ == "__main__":
    run_main(main)
