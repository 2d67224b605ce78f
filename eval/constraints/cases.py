"""Read CCTU's cases and the check file of each constraint, in the authors' layout.

Input: a folder with `input_data.jsonl` (environments in FTRL's format with `id` and `constraints_list`, a list of
`[dimension, name, description]`) and `check_code/<id>/check_constraint_<place>.json` or `.py`, one per constraint in
the order of the list. A JSON file holds limits, and its keys say which (`LIMITS`). A Python file has a function that
takes the final answer and returns `(valid, explanation)`.

Two namings of the constraints exist: the paper's (`Resource`, `Interaction Rounds`) and an older one in the check files
(`Interact`, `Round`). Both are read.

Source: CCTU (arXiv 2603.15309) and the repository Junjie-Ye/CCTU at commit 0b4e3253b08f.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, file_sha256, read_jsonl, read_text
from env_construction.environment.limits import Limits
from env_construction.environment.schema import Environment, require_schemas
from eval.suites.suite import DataMissing

CASES_FILE, CHECKS_FOLDER = "input_data.jsonl", "check_code"
MAX_ROUNDS = 20
# (dimension, name) in lower case -> the validator's function
VALIDATORS = {
    ("response", "format"): "validate_format",
    ("response", "content_2"): "validate_punctuation",
    ("response", "punctuation"): "validate_punctuation",
    ("response", "content_1"): "validate_identifiers",
    ("response", "identifiers"): "validate_identifiers",
}
# the key that tells what a JSON check file limits
LIMITS = (
    "max_round",
    "max_callTimes",
    "max_calls_per_tool",
    "max_parallelCallTypes",
    "order_constraints",
    "parallel_groups",
    "max_responseLength",
)
# One case has a condition that its check file cannot express: if it starts with the first of these tools, the others
# must follow in this order. The authors' checker holds it in its code too.
CONDITIONAL_ORDER = {
    "96": (
        "urban_area_identifier",
        "business_district_locator",
        "business_locator",
        "consulting_client_finder",
        "corporate_housing_locator",
        "rental_price_analyzer",
    )
}


@dataclass(frozen=True)
class Rules(Limits):
    """The constraints of one case; by default there is none."""

    rounds: tuple[float, float] = (0, MAX_ROUNDS)
    parallel: tuple[float, float] = (0, math.inf)
    parallel_by_type: bool = True
    conditional_order: Sequence[str] = ()
    together: Sequence[Sequence[str]] = ()
    validators: Mapping[str, str] = field(default_factory=dict)  # function -> source
    unchecked: Sequence[str] = ()  # constraints without a check file


@dataclass(frozen=True)
class Case:
    """An environment, its constraints, and the right turns (calls, or a text) if the file holds `gold_turns`."""

    environment: Environment
    rules: Rules
    gold_turns: Sequence[Sequence[Mapping[str, Any]] | str] = ()


def read_cases(folder: Path, limit: int | None = None) -> list[Case]:
    """The cases of a folder, in order. Raises DataMissing or BadInput."""
    path = folder / CASES_FILE
    for needed in (path, folder / CHECKS_FOLDER):
        if not needed.exists():
            raise DataMissing(
                f"{needed}: not found; CCTU's cases ({CASES_FILE}) are the Hugging Face dataset Junjie-Ye/CCTU, and "
                f"{CHECKS_FOLDER}/ lies under data/ of the GitHub repository of that name: put both into {folder}"
            )
    cases: list[Case] = []
    for number, record in islice(read_jsonl(path, required=("id", "constraints_list")), limit):
        where = f"{path}:{number}"
        environment = Environment.from_record({**record, "id": str(record["id"])}, where)
        require_schemas(environment, where)
        constraints = record["constraints_list"]
        if not isinstance(constraints, list) or not all(
            isinstance(item, list) and len(item) >= 2 and all(isinstance(part, str) for part in item[:2])
            for item in constraints
        ):
            raise BadInput(f"{where}: key 'constraints_list': expected a list of [dimension, name, description]")
        names = [tool.name for tool in environment.tools]
        rules = read_rules(folder / CHECKS_FOLDER / environment.id, environment.id, constraints, names)
        gold = record.get("gold_turns", [])
        if not isinstance(gold, list) or not all(isinstance(turn, str | list) for turn in gold):
            raise BadInput(f"{where}: key 'gold_turns': expected a list of calls or texts")
        cases.append(Case(environment, rules, gold))
    ids = [case.environment.id for case in cases]
    if repeated := next((case for place, case in enumerate(ids) if case in ids[:place]), None):
        raise BadInput(f"{path}: id {repeated!r} occurs twice; expected one line per case")
    return cases


def read_rules(folder: Path, case_id: str, constraints: Sequence[Sequence[str]], tools: Sequence[str]) -> Rules:
    """The constraints of a case from its check files. Raises BadInput for a file that cannot be used."""
    found: dict[str, Any] = {"calls_of_tool": {}, "validators": {}, "unchecked": [], "orders": [], "together": []}
    for place, (dimension, name, *_) in enumerate(constraints):
        kind = dimension.strip().strip('"').lower(), name.strip().strip('"').lower()
        path = folder / f"check_constraint_{place}.json"
        if path.is_file():
            _add_limits(found, path, tools)
            continue
        path = path.with_suffix(".py")
        if path.is_file() and kind in VALIDATORS:
            source = read_text(path)
            if f"def {VALIDATORS[kind]}(" not in source:
                raise BadInput(
                    f"{path}: expected a function {VALIDATORS[kind]}, for the constraint {dimension}, {name}"
                )
            found["validators"][VALIDATORS[kind]] = source
        else:
            found["unchecked"].append("/".join(kind))
    chain = CONDITIONAL_ORDER.get(case_id, ())
    if chain and not found["orders"] and set(chain) <= set(tools):
        found["conditional_order"] = chain
    return Rules(**found)


def _add_limits(found: dict[str, Any], path: Path, tools: Sequence[str]) -> None:
    try:
        limits = json.loads(read_text(path))
    except ValueError as error:
        raise BadInput(f"{path}: expected JSON ({error})") from None
    kind = next((key for key in LIMITS if key in limits), None) if isinstance(limits, dict) else None
    if kind is None:
        raise BadInput(f"{path}: expected an object with one of {', '.join(LIMITS)}")
    value = limits[kind]
    if kind == "max_calls_per_tool":
        _require_tools(path, value, tools)
        found["calls_of_tool"] |= {tool: _number(path, count) for tool, count in value.items()}
    elif kind in ("order_constraints", "parallel_groups"):
        if not isinstance(value, list) or not all(isinstance(group, list) for group in value):
            raise BadInput(f"{path}: key {kind!r}: expected a list of lists of tools")
        _require_tools(path, [tool for group in value for tool in group], tools)
        found["orders" if kind == "order_constraints" else "together"] += value
    else:
        low, high = (_number(path, limits.get(key)) for key in (f"min_{kind.removeprefix('max_')}", kind))
        unit = limits.get("unit")
        if kind == "max_round":
            found["rounds"] = low, min(high, MAX_ROUNDS)
        elif kind == "max_callTimes":
            found["calls"] = low, high
        elif kind == "max_parallelCallTypes":
            found |= {"parallel": (low, high), "parallel_by_type": unit == "type"}
        elif unit in ("words", "characters"):
            found |= {"length": (low, high), "length_in_words": unit == "words"}
        else:
            raise BadInput(f"{path}: key 'unit': expected words or characters, got {unit!r}")


def _number(path: Path, value: Any) -> float:
    """A limit: a number, or `inf`; null is no limit."""
    try:
        return math.inf if value is None else float(value)
    except (TypeError, ValueError):
        raise BadInput(f"{path}: expected a number or 'inf', got {value!r}") from None


def _require_tools(path: Path, named: Any, tools: Sequence[str]) -> None:
    if not isinstance(named, list | dict) or any(tool not in tools for tool in named):
        raise BadInput(f"{path}: expected names of the case's tools ({', '.join(tools)}), got {str(named)[:200]}")


def checks_sha256(folder: Path) -> str:
    """One hash of the names and contents of the check files of all cases, whatever the --limit."""
    files = sorted((folder / CHECKS_FOLDER).glob("*/check_constraint_*"))
    lines = [f"{path.parent.name}/{path.name} {file_sha256(path)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
