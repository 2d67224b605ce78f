"""The complexity levels of environments, as data: one row per level.

`compact` is for the tiny CPU policy, `paper` follows the published data. The row `paper` comes from the table "The
published data, counted" (paper/README.md): sub-questions, tools, needed tools, parameters and required parameters per
tool, shares of parameter types, enums and defaults, lengths of documents and code.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import SCENARIOS, Scenario

Weights = dict[int, float]


@dataclass(frozen=True)
class Level:
    """One level of complexity. Weights are {number: weight}, shares are probabilities.

    `hops`: sub-questions; `tools`: all tools. `rows`: additional entities that a tool knows (lowest, highest).
    `name_pattern`, `name_length`, `value_length` (characters): limits for entities and values.
    `parameters`: parameters per tool; `kinds`: weights of additional parameters by kind; `required_extra`: mean number
    of required parameters that a tool about given entities has besides the entity. `verbose`: long documents and code.
    `audited`: a build fails if a shortcut pays.

    The shares are the probability or fraction that
    - `same_share`: a parallel question asks one relation of several entities;
    - `distinct`: the lookups of one question avoid each other's tools;
    - `calculator_share`: a multi-hop question ends in arithmetic;
    - `derived_share`: a parallel question's answer is a comparison, pick, sum or count over its sub-answers;
    - `generalize_share`: a tool serves more relations than the question needs;
    - `unit_share`: a quantity's unit is a parameter;
    - `array_share`, `object_share`: an entity is passed in an array or an object;
    - `default_share`: an optional string has a default;
    - `loose_share`: a description in a fictional world states a range, a limit or choices instead of a value;
    - `closeness`: an unneeded tool is easily confused with a needed one.
    """

    name: str
    hops: dict[Scenario, Weights]
    tools: dict[Scenario, Weights]
    rows: tuple[int, int]
    instruction: tuple[str, ...]
    name_pattern: str = r"[^\s].*[^\s]"
    name_length: int = 40
    value_length: int = 60
    same_share: float = 0.4
    distinct: bool = False
    calculator_share: float = 0.0
    derived_share: float = 0.0
    generalize_share: float = 0.1
    unit_share: float = 0.5
    array_share: float = 0.0
    object_share: float = 0.0
    parameters: Weights = field(default_factory=lambda: {1: 1.0})
    kinds: dict[str, float] = field(default_factory=dict)
    default_share: float = 0.0
    required_extra: dict[Scenario, float] = field(default_factory=lambda: dict.fromkeys(SCENARIOS, 0.0))
    closeness: float = 0.7
    loose_share: float = 0.25
    verbose: bool = True
    audited: bool = True

    def accepts_name(self, name: str) -> bool:
        return len(name) <= self.name_length and re.fullmatch(self.name_pattern, name) is not None

    def accepts_value(self, value: str) -> bool:
        return 0 < len(value) <= self.value_length and (self.verbose or value.isascii())


_LONG_INSTRUCTION = (
    "Answer the question below with the help of the tools. Whatever you state must come out of a tool call, not out of "
    "your own knowledge. When a call fails, read the message, change the call and try again until you have the answer.",
    "You are given tools and a question. Look everything up by calling the tools; do not rely on what you remember. If "
    "a tool reports an error, correct your call and repeat it, and go on until the question is answered.",
    "Work out the answer by calling the given tools only: facts that no tool returned do not count. Should a call go "
    "wrong, mend it and call again, as often as it takes to reach the answer.",
)

LEVELS: dict[str, Level] = {
    "compact": Level(
        name="compact",
        hops={
            "single_hop": {1: 1.0},
            "parallel_single_hop": {2: 0.7, 3: 0.3},
            "multi_hop": {2: 0.6, 3: 0.4},
            "parallel_multi_hop": {3: 0.6, 4: 0.4},
        },
        tools={
            "single_hop": {2: 0.4, 3: 0.4, 4: 0.2},
            "parallel_single_hop": {2: 0.3, 3: 0.4, 4: 0.3},
            "multi_hop": {2: 0.2, 3: 0.4, 4: 0.4},
            "parallel_multi_hop": {3: 0.5, 4: 0.5},
        },
        rows=(4, 8),
        instruction=("Call the tools to answer.", "Use the tools to find the answer.", "Answer by calling the tools."),
        name_pattern=r"[A-Z][a-z]{2,9}(?: Airport|-\d+)?",
        name_length=18,
        value_length=24,
        loose_share=0.0,
        verbose=False,
        audited=False,  # two to four tools with one-line documents: words always tell, and the tiny policy needs them
    ),
    "medium": Level(
        name="medium",
        hops={
            "single_hop": {1: 1.0},
            "parallel_single_hop": {2: 0.6, 3: 0.3, 4: 0.1},
            "multi_hop": {2: 0.25, 3: 0.35, 4: 0.25, 5: 0.1, 6: 0.05},
            "parallel_multi_hop": {3: 0.2, 4: 0.3, 5: 0.3, 6: 0.2},
        },
        tools={
            "single_hop": {3: 0.3, 4: 0.4, 5: 0.3},
            "parallel_single_hop": {3: 0.3, 4: 0.4, 5: 0.3},
            "multi_hop": {4: 0.3, 5: 0.4, 6: 0.3},
            "parallel_multi_hop": {5: 0.3, 6: 0.4, 7: 0.3},
        },
        rows=(6, 12),
        instruction=_LONG_INSTRUCTION,
        distinct=True,
        closeness=0.85,
        calculator_share=0.25,
        derived_share=0.5,
        generalize_share=0.25,
        array_share=0.05,
        object_share=0.05,
        parameters={2: 0.3, 3: 0.4, 4: 0.3},
        kinds={"text": 25, "enum": 22, "boolean": 18, "object": 3, "number": 4, "array": 3, "integer": 3},
        default_share=0.4,
        required_extra=dict.fromkeys(SCENARIOS, 0.5),
    ),
    "paper": Level(
        name="paper",
        hops={
            "single_hop": {1: 1.0},
            "parallel_single_hop": {2: 0.97, 3: 0.03},
            "multi_hop": {2: 0.05, 3: 0.08, 4: 0.12, 5: 0.2, 6: 0.22, 7: 0.16, 8: 0.1, 9: 0.05, 10: 0.02},
            "parallel_multi_hop": {5: 0.06, 6: 0.15, 7: 0.26, 8: 0.24, 9: 0.17, 10: 0.08, 11: 0.04},
        },
        tools={
            "single_hop": {6: 0.15, 7: 0.2, 8: 0.3, 9: 0.2, 10: 0.15},
            "parallel_single_hop": {5: 0.1, 6: 0.15, 7: 0.25, 8: 0.25, 9: 0.15, 10: 0.1},
            "multi_hop": {8: 0.1, 9: 0.2, 10: 0.3, 11: 0.2, 12: 0.12, 13: 0.08},
            "parallel_multi_hop": {9: 0.1, 10: 0.2, 11: 0.3, 12: 0.2, 13: 0.1, 14: 0.1},
        },
        rows=(5, 10),
        instruction=_LONG_INSTRUCTION,
        same_share=0.6,
        distinct=True,
        closeness=0.85,
        calculator_share=0.5,
        derived_share=0.9,
        generalize_share=0.2,
        array_share=0.05,
        object_share=0.05,
        parameters={5: 0.1, 6: 0.2, 7: 0.3, 8: 0.25, 9: 0.15},
        kinds={"text": 27, "enum": 22.5, "boolean": 17.5, "object": 3, "number": 2.7, "array": 2, "integer": 2.8},
        default_share=0.6,
        required_extra={"single_hop": 1.45, "parallel_single_hop": 0.55, "multi_hop": 0.15, "parallel_multi_hop": 0.1},
    ),
}


def draw_weighted(rng: random.Random, weights: Weights) -> int:
    return rng.choices(list(weights), weights=list(weights.values()))[0]


def level_named(name: str) -> Level:
    """The level of that name. Raises BadInput with the valid names."""
    if name not in LEVELS:
        raise BadInput(f"level {name!r} is unknown; valid: {', '.join(LEVELS)}")
    return LEVELS[name]
