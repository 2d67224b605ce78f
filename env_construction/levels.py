"""How complex environments are, as data: one row a level. `compact` feeds the tiny CPU policy, `paper` follows the published data.

Rows for `paper` come from the table "The published data, counted" (paper/README.md): hops, tools and parameters a tool.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from env_construction.schema import Scenario


@dataclass(frozen=True)
class Level:
    """`hops` maps a scenario to {number of sub-questions: weight}; `tools` to {number of tools in all: weight}.

    `rows` is how many entities a tool knows (lowest, highest); `name_pattern` and `name_length` limit entity names and
    `value_length` what a tool returns. The shares are probabilities per tool: that it is generalized to a family of
    relations, that a quantity takes its unit as an enum, that a text parameter becomes an array, and how many extra parameters it gets (lowest, highest).
    `closeness` is the share of unneeded tools that share a needed tool's subject type or key.
    """

    name: str
    hops: dict[Scenario, dict[int, float]]
    tools: dict[Scenario, dict[int, float]]
    rows: tuple[int, int]
    name_pattern: str
    name_length: int
    value_length: int
    generalize_share: float
    unit_share: float
    array_share: float
    extra_parameters: tuple[int, int]
    closeness: float
    instruction: tuple[str, ...]
    verbose: bool

    def accepts_name(self, name: str) -> bool:
        return len(name) <= self.name_length and re.fullmatch(self.name_pattern, name) is not None

    def accepts_value(self, value: str) -> bool:
        return 0 < len(value) <= self.value_length and (self.verbose or value.isascii())


_PLAIN_NAME = r"[A-Z][a-z]+(?:[ -](?:[A-Z][a-z]+|of|the|and|\d+)){0,2}"
_ANY_NAME = r"[^\s].*[^\s]"

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
        name_pattern=_PLAIN_NAME,
        name_length=24,
        value_length=24,
        generalize_share=0.1,
        unit_share=0.5,
        array_share=0.0,
        extra_parameters=(0, 0),
        closeness=0.7,
        instruction=("Call the tools to answer.", "Use the tools to find the answer.", "Answer by calling the tools."),
        verbose=False,
    ),
}


def level_named(name: str) -> Level:
    """Raises BadInput with the valid names."""
    from env_construction.jsonl import BadInput

    if name not in LEVELS:
        raise BadInput(f"--level {name!r} is unknown; valid: {', '.join(LEVELS)}")
    return LEVELS[name]
