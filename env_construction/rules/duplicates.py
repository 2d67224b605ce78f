"""Hashes of environments: a set of 8-byte hashes that needs 16 bytes per environment, and counts of distinct items.

Two environments with the same question are duplicates. The numbers of distinct sources, question templates, entity
chains and tool sets are estimated in constant memory (HyperLogLog, 2^14 registers, standard error 0.8%).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable

import numpy as np

from env_construction.environment.schema import Environment

DISTINCT = ("sources", "question templates", "entity chains", "tool sets")
_BITS = 14


def hash64(text: str) -> int:
    """A hash that is the same on every machine. 0 is reserved for an empty slot."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1


def question_key(environment: Environment) -> int:
    """The key that two duplicates share: the question without its instruction and constraints."""
    return hash64(environment.question_alone.split("Question: ", 1)[-1])


def distinct_keys(environment: Environment) -> dict[str, list[int]]:
    """Hashes of the environment's sources, question template, entity chain and tool set, by the names in DISTINCT."""
    chain = [(call.name, call.arguments) for call in environment.gold_plan]
    template = environment.question_alone.split("Question: ", 1)[-1]
    names = {text for _, arguments in chain for text in _texts(arguments)}
    for name in sorted(names, key=len, reverse=True):
        template = template.replace(name, "#")
    tools = sorted((tool.name, sorted(tool.parameters.get("properties", {}))) for tool in environment.tools)
    return {
        "sources": [hash64(source) for source in environment.codes.values()],
        "question templates": [hash64(template)],
        "entity chains": [hash64(json.dumps(chain, ensure_ascii=False, sort_keys=True))],
        "tool sets": [hash64(json.dumps(tools))],
    }


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in _texts(inner)]
    return [str(value)]


class HashSet:
    """A set of non-zero 64-bit integers in one array (open addressing, at most 60% full)."""

    def __init__(self, expected: int = 1024) -> None:
        self._slots = np.zeros(1 << max(10, math.ceil(math.log2(max(1, expected) / 0.6))), dtype=np.uint64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: int) -> bool:
        return bool(self._slots[self._place(key)] == key)

    def add(self, key: int) -> bool:
        """Add a key. True if it is new."""
        place = self._place(key)
        if self._slots[place] == key:
            return False
        self._slots[place] = key
        self._count += 1
        if self._count > 0.6 * len(self._slots):
            self._grow()
        return True

    def _place(self, key: int) -> int:
        mask = len(self._slots) - 1
        place = key & mask
        while self._slots[place] not in (0, key):
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        old = self._slots[self._slots != 0]
        self._slots = np.zeros(2 * len(self._slots), dtype=np.uint64)
        for key in old.tolist():
            self._slots[self._place(key)] = key


class DistinctCounter:
    """Estimates the number of distinct hashes added; can be merged. Flajolet et al., HyperLogLog (2007)."""

    def __init__(self, registers: np.ndarray | None = None) -> None:
        self.registers = np.zeros(1 << _BITS, dtype=np.uint8) if registers is None else registers

    def add(self, keys: Iterable[int]) -> None:
        for key in keys:
            rest = key >> _BITS
            rank = 64 - _BITS - rest.bit_length() + 1
            place = key & ((1 << _BITS) - 1)
            if rank > self.registers[place]:
                self.registers[place] = rank

    def merge(self, other: DistinctCounter) -> None:
        np.maximum(self.registers, other.registers, out=self.registers)

    def estimate(self) -> int:
        size = len(self.registers)
        raw = 0.7213 / (1 + 1.079 / size) * size * size / float(np.sum(2.0 ** -self.registers.astype(np.float64)))
        empty = int(np.count_nonzero(self.registers == 0))
        return round(size * math.log(size / empty)) if raw <= 2.5 * size and empty else round(raw)
