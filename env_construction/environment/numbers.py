"""The one reader of numbers in text: how people, models and LaTeX write them, and what they are worth.

| written | read as |
| --- | --- |
| `1,234`  `9{,}500`  `11,\\!111`  `10\\,000`, thin and no-break spaces between groups of three | 1234, 9500, 11111,
10000 | | U+2212 and the other minus signs and hyphens, in front of a number | a minus |
| `$18`, `-$18`, `\\$18`, `5\\%`, `.5`, `18.` at the end of a sentence | 18, -18, 18, 5, 0.5, 18 |

A digit that is part of a word (`v2`, `x1`) is no number, and a hyphen behind a digit or a letter (`10-20`, `A-4`) is no
sign. Used by strict matching (answer_tokens.py) and by the graders of the general benchmarks
(eval/graders/answer_rules.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

LONGEST_NUMBER = 400
"""Characters; a longer run of digits is babble, and costs time."""

CURRENCY = "$€£¥"
SIGNED_NUMBER = (
    rf"(?:(?<![\w.)\]%}}])[+-](?:\s?[{CURRENCY}]\s?)?)?"
    r"(?:(?<![\w.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)(?:\.\d+)?|(?<!\w)(?:\d+(?:\.\d+)?|\.\d+))"
    r"(?:e[+-]?\d{1,4}(?!\w))?"
)
"""A regular expression without groups, for a text that `plain_typography` has been through."""

_NUMBER = re.compile(SIGNED_NUMBER, re.IGNORECASE)
_MINUS = dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x207B, 0x208B, 0x2212, 0x2796, 0xFE58, 0xFE63, 0xFF0D), "-")
# what stands between groups of three digits in typeset numbers: no-break, figure, thin and narrow spaces, LaTeX's own
_SPACES = "\u00a0\u2007\u2008\u2009\u200a\u202f"
_LATEX_GROUP = r"\s*(?:\{,\}|\{\\[,;:!]\}|\{?,\}?\s*\\[,;:! ]|\\[,;:!])\s*"
_GROUPED_LATEX = re.compile(rf"(?<![\d.])\d{{1,3}}(?:{_LATEX_GROUP}\d{{3}})+(?!\d)")
_GROUPED_SPACES = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:[{_SPACES}]\d{{3}})+(?!\d)")
_SEPARATOR = re.compile(r"\D+")
_ESCAPED = re.compile(r"\\([$%])")


@dataclass(frozen=True)
class FoundNumber:
    """A number in a text; `start` and `end` are offsets in what `plain_typography` returns."""

    start: int
    end: int
    value: Decimal


def plain_typography(text: str) -> str:
    """The text with plain commas between thousands, plain minus signs, and no backslash before `$` and `%`."""
    if "\\" in text or "{,}" in text:
        text = _GROUPED_LATEX.sub(_with_commas, _ESCAPED.sub(r"\1", text))
    if not text.isascii():
        text = _GROUPED_SPACES.sub(_with_commas, text.translate(_MINUS))
    return text


def _with_commas(found: re.Match[str]) -> str:
    return _SEPARATOR.sub(",", found.group())


def number_value(written: str) -> Decimal | None:
    """What one match of SIGNED_NUMBER is worth; None if it is longer than LONGEST_NUMBER."""
    if len(written) > LONGEST_NUMBER:
        return None
    try:
        return Decimal(re.sub(rf"[,\s{CURRENCY}]", "", written))
    except InvalidOperation:
        return None


def numbers_in(text: str) -> Iterator[FoundNumber]:
    """The numbers of a text that `plain_typography` has been through, in order; too long ones are left out."""
    for found in _NUMBER.finditer(text):
        value = number_value(found.group())
        if value is not None:
            yield FoundNumber(found.start(), found.end(), value)
