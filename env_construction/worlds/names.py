"""Fictional names: patterns over the lists of `names.yaml`, sampled with a seeded generator."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from env_construction.environment.jsonl import BadInput
from env_construction.worlds.english import plural_of, right_articles

Draw = Callable[[random.Random], str]
_FAMILY = re.compile(r"\{(\w+(?::s)?)\}")
FOLDER = Path(__file__).parent


def load_yaml(path: Path) -> Any:
    """The content of a data file. Raises BadInput with file and line."""
    try:
        # BaseLoader keeps every scalar as text: "on" and "no" are words here, not booleans.
        return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: {str(error).replace(chr(10), ' ')}") from None


@lru_cache(maxsize=1)
def families() -> dict[str, list[str] | str]:
    """The word lists and patterns of `names.yaml`, by name."""
    return load_yaml(FOLDER / "names.yaml")


@lru_cache(maxsize=4096)
def drawer(pattern: str) -> Draw:
    """A function that samples a name from a pattern. Raises BadInput for an unknown family.

    " / " separates alternatives. {family} samples from a list of `names.yaml`, and {family:s} gives the plural. In an
    alternative that begins with "code ", # is a digit and @ is a letter.
    """
    draws = [_one(part.strip()) for part in pattern.split(" / ")]
    if len(draws) == 1:
        return draws[0]
    return lambda rng: draws[int(rng.random() * len(draws))](rng)


def _one(pattern: str) -> Draw:
    if pattern.startswith("code "):
        return _code(pattern[5:])
    pieces = _FAMILY.split(pattern)
    known = families()
    parts: list[str | list[str] | Draw] = []
    for place, piece in enumerate(pieces):
        if place % 2 == 0:
            parts.append(piece)
            continue
        piece, _, plural = piece.partition(":")
        if piece not in known:
            raise BadInput(f"names.yaml: pattern {pattern!r} uses the unknown family {{{piece}}}; add it to names.yaml")
        family = known[piece]
        if plural and isinstance(family, list):
            family = [plural_of(word) for word in family]
        parts.append(family if isinstance(family, list) else drawer(family))

    def draw(rng: random.Random) -> str:
        text = "".join(
            part
            if isinstance(part, str)
            else part[int(rng.random() * len(part))]
            if isinstance(part, list)
            else part(rng)
            for part in parts
        )
        return right_articles(text) if titled else text

    titled = re.search(r"\b[Aa] \{", pattern) is not None
    return draw


def _code(mask: str) -> Draw:
    def draw(rng: random.Random) -> str:
        return "".join(
            "0123456789"[int(rng.random() * 10)]
            if mark == "#"
            else "ABCDEFGHJKLMNPQRSTUVWXYZ"[int(rng.random() * 24)]
            if mark == "@"
            else mark
            for mark in mask
        )

    return draw
