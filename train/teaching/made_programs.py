"""The small programs of the made skills: an expression of `x` in words, as code, and with results for three arguments.

A program applies one to three operations to integers or text. Its results are computed from the operations, never from
its code, so that a test also tests the code. The description states a number as a sum, so copying words is not enough.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FUNCTION_NAMES = ("calc", "change", "make", "turn", "find", "step", "work", "apply", "get", "run")
WORDS = ("sun", "tree", "river", "stone", "cloud", "field", "house", "light", "water", "bird")


@dataclass(frozen=True)
class Program:
    """`words`: a capitalized phrase of what it does; `code`: an expression of x; `cases`: three (argument, result)."""

    name: str
    words: str
    code: str
    cases: list[tuple[Any, Any]]


@dataclass(frozen=True)
class Operation:
    """`words`, `code`: with `{x}` for the operand; `atom`: the code needs no parentheses."""

    words: str
    code: str
    apply: Callable[[Any], Any]
    atom: bool = False


def _number(rng: random.Random) -> Operation:
    one, other = rng.randint(1, 9), rng.randint(1, 9)
    k, shown = one + other, f"the sum of {one} and {other}"
    return rng.choice(
        (
            Operation(f"add {shown}", f"{{x}} + {k}", lambda x: x + k),
            Operation(f"take away {shown}", f"{{x}} - {k}", lambda x: x - k),
            Operation(f"multiply by {shown}", f"{{x}} * {k}", lambda x: x * k),
            Operation("double it", "{x} * 2", lambda x: x * 2),
            Operation("square it", "{x} ** 2", lambda x: x**2),
            Operation(f"take the larger of it and {shown}", f"max({{x}}, {k})", lambda x: max(x, k), atom=True),
            Operation(f"take the smaller of it and {shown}", f"min({{x}}, {k})", lambda x: min(x, k), atom=True),
            Operation(f"take the rest after dividing by {shown}", f"{{x}} % {k}", lambda x: x % k),
        )
    )


def _text(rng: random.Random) -> Operation:
    k, word = rng.randint(2, 5), rng.choice(WORDS)
    return rng.choice(
        (
            Operation(f"repeat the text {k} times", f"{{x}} * {k}", lambda x: x * k),
            Operation(f"keep the first {k} letters", f"{{x}}[:{k}]", lambda x: x[:k], atom=True),
            Operation(f"keep the last {k} letters", f"{{x}}[-{k}:]", lambda x: x[-k:], atom=True),
            Operation("turn the text around", "{x}[::-1]", lambda x: x[::-1], atom=True),
            Operation("make capitals", "{x}.upper()", lambda x: x.upper(), atom=True),
            Operation(f"append {word}", f'{{x}} + "{word}"', lambda x: x + word),
            Operation(f"put {word} before it", f'"{word}" + {{x}}', lambda x: word + x),
        )
    )


def draw_program(rng: random.Random) -> Program:
    """A program of one, two or three operations."""
    on_text = rng.random() < 0.4
    operations = [(_text if on_text else _number)(rng) for _ in range(rng.choice((1, 2, 3)))]
    code, atom = "x", True
    for operation in operations:
        code, atom = operation.code.format(x=code if atom else f"({code})"), operation.atom
    words = ", then ".join(operation.words for operation in operations)
    arguments = rng.sample(WORDS, 3) if on_text else sorted(rng.sample(range(1, 31), 3))
    cases = []
    for argument in arguments:
        result = argument
        for operation in operations:
            result = operation.apply(result)
        cases.append((argument, result))
    return Program(rng.choice(FUNCTION_NAMES), words[0].upper() + words[1:], code, cases)
