"""Does a tool's output hold a sub-answer? Two answers to that question: `published` and `strict`.

`published` is the authors' rule (paper/README.md, "Reward for one model turn"), order-dependence and substring matches
included: the sub-answer is split at ", ", and each part, lower-cased and without commas, must be a substring of the
output, lower-cased and without commas. Error texts are output like any other.

`strict` mends defects 4, 5 and 7 of that rule:
- a part matches whole tokens only ("2" is not in "2023", "no" is not in "unknown");
- numbers are compared by value ("4,478" = 4478.0 = "4478 m"), dates by day ("August 21, 1949" = "1949-08-21");
- the calls of a turn are assigned to sub-answers by a maximum bipartite matching, whatever their order;
- a failed call never solves anything, and a sub-answer without a letter or digit never matches.

Here and not in `reward/`, because construction checks its own environments with the same rule.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Protocol

MATCHES = ("published", "strict")

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            ("january", "jan"),
            ("february", "feb"),
            ("march", "mar"),
            ("april", "apr"),
            ("may",),
            ("june", "jun"),
            ("july", "jul"),
            ("august", "aug"),
            ("september", "sept", "sep"),
            ("october", "oct"),
            ("november", "nov"),
            ("december", "dec"),
        ),
        start=1,
    )
    for name in names
}
_UNITS = {
    alias: names[0]
    for names in (
        ("km", "kilometer", "kilometers", "kilometre", "kilometres"),
        ("m", "meter", "meters", "metre", "metres"),
        ("cm", "centimeter", "centimeters", "centimetre", "centimetres"),
        ("mm", "millimeter", "millimeters", "millimetre", "millimetres"),
        ("mi", "mile", "miles"),
        ("ft", "foot", "feet"),
        ("in", "inch", "inches"),
        ("kg", "kilogram", "kilograms"),
        ("g", "gram", "grams"),
        ("mg", "milligram", "milligrams"),
        ("lb", "lbs", "pound", "pounds"),
        ("t", "ton", "tons", "tonne", "tonnes"),
        ("l", "liter", "liters", "litre", "litres"),
        ("ml", "milliliter", "milliliters", "millilitre", "millilitres"),
        ("s", "sec", "second", "seconds"),
        ("min", "minute", "minutes"),
        ("h", "hr", "hrs", "hour", "hours"),
        ("day", "days"),
        ("week", "weeks"),
        ("month", "months"),
        ("yr", "yrs", "year", "years"),
        ("%", "percent"),
        ("°c", "celsius"),
        ("°f", "fahrenheit"),
        ("k", "kelvin"),
        ("u", "dalton", "daltons", "amu"),
        ("km2", "km²"),
        ("m2", "m²"),
        ("m3", "m³"),
        ("usd", "$", "dollar", "dollars"),
        ("eur", "€", "euro", "euros"),
        ("gbp", "£"),
        ("jpy", "¥", "yen"),
    )
    for alias in names
}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_CLOCK = r"(?:[t ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:\s?z\b|[+-]\d{2}:?\d{2})?)?"
_TOKEN = re.compile(
    rf"(?<![\w.])(?P<y1>\d{{4}})(?P<sep>[-/])(?P<m1>\d{{1,2}})(?P=sep)(?P<d1>\d{{1,2}}){_CLOCK}(?!\w|[-/]\d)"
    rf"|(?<!\w)(?P<m2>{_MONTH})\.?\s+(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<y2>\d{{4}})(?!\w)"
    rf"|(?<![\w.])(?P<d3>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m3>{_MONTH})\.?,?\s+(?P<y3>\d{{4}})(?!\w)"
    r"|(?P<number>(?:(?<![\w.)\]%])[+-])?(?:(?<![\w.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)(?:\.\d+)?|(?<!\w)(?:\d+(?:\.\d+)?|\.\d+))"
    r"(?:e[+-]?\d{1,4}(?!\w))?)(?P<unit>[^\W\d_]*[23]?)(?!\w)"
    r"|(?P<word>\w+[+#]*)"
)
_UNIT_AFTER = re.compile(r"\s?(%|°\s?[cf](?!\w)|[^\W\d_]+[23]?)(?!\w)")
_LONGEST_NUMBER = 400
_TOLERANCE = Decimal("1e-9")


class Result(Protocol):
    """What `assign` needs to know of a tool result."""

    @property
    def output(self) -> str: ...

    @property
    def ok(self) -> bool: ...


@dataclass(frozen=True)
class _Token:
    """A word, a number with or without unit, or a day. `start` and `end` are offsets in the normalized text."""

    start: int
    end: int
    word: str = ""
    number: Decimal | None = None
    unit: str = ""
    day: tuple[int, int, int] | None = None


def published_match(sub_answer: str, output: str) -> bool:
    """The authors' rule: every ", "-part of the sub-answer is a substring of the output, commas and case aside.

    An empty part is a substring of everything: "" matches any output (defect 4), as published.
    """
    text = output.lower().replace(",", "").strip()
    return all(part.lower().replace(",", "").strip() in text for part in sub_answer.split(", "))


def strict_match(sub_answer: str, output: str) -> bool:
    """Every ", "-part of the sub-answer stands in the output as whole tokens; numbers by value, dates by day.

    An output that is a JSON object or array is searched leaf by leaf (keys are leaves too), so that no match runs
    across two fields. A sub-answer without a letter or digit never matches.
    """
    return _all_parts_in(sub_answer, [_tokens(segment) for segment in _segments(output)])


def answer_in_text(answer: str, text: str, match: str) -> bool:
    """Is the final answer in the model's text? The whole answer, not split at ", ".

    published: substring, case and commas aside. strict: its tokens stand in the text, one after the other.
    Raises ValueError for an unknown `match`.
    """
    _check(match)
    if match == "published":
        return answer.lower().replace(",", "").strip() in text.lower().replace(",", "").strip()
    wanted = _tokens(answer)
    return bool(wanted) and _holds(wanted, _tokens(text))


def assign(answers: Sequence[str], results: Sequence[Result], match: str) -> list[int | None]:
    """For the calls of ONE tool, in call order: the index of the sub-answer that each call solves, or None.

    A call solves at most one sub-answer, a sub-answer is solved at most once. published: each call takes the first
    open sub-answer in list order that matches, error texts included. strict: a maximum bipartite matching, in which
    failed calls have no edge; a call that is matched stays matched when later calls are added.
    Raises ValueError for an unknown `match`.
    """
    _check(match)
    if match == "published":
        taken: set[int] = set()
        chosen: list[int | None] = []
        for result in results:
            found = next(
                (i for i, a in enumerate(answers) if i not in taken and published_match(a, result.output)), None
            )
            chosen.append(found)
            if found is not None:
                taken.add(found)
        return chosen
    edges: list[list[int]] = []
    for result in results:
        segments = [_tokens(segment) for segment in _segments(result.output)] if result.ok and answers else []
        edges.append([i for i, answer in enumerate(answers) if _all_parts_in(answer, segments)])
    return _maximum_matching(edges, len(answers))


def _all_parts_in(sub_answer: str, segments: Sequence[Sequence[_Token]]) -> bool:
    parts = _parts(sub_answer)
    return bool(parts) and all(any(_holds(part, segment) for segment in segments) for part in parts)


def _check(match: str) -> None:
    if match not in MATCHES:
        raise ValueError(f"unknown match {match!r}: expected one of {', '.join(MATCHES)}")


def _maximum_matching(edges: Sequence[Sequence[int]], right: int) -> list[int | None]:
    """Kuhn's algorithm, augmenting paths found breadth-first (no recursion): left vertex -> right vertex or None."""
    left_of: list[int | None] = [None] * right
    right_of: list[int | None] = [None] * len(edges)
    for root in range(len(edges)):
        came_from: dict[int, int] = {}
        queue = [root]
        end: int | None = None
        while queue and end is None:
            left = queue.pop(0)
            for candidate in edges[left]:
                if candidate in came_from:
                    continue
                came_from[candidate] = left
                owner = left_of[candidate]
                if owner is None:
                    end = candidate
                    break
                queue.append(owner)
        while end is not None:
            left = came_from[end]
            previous = right_of[left]
            right_of[left], left_of[end] = end, left
            end = previous
    return right_of


def _normalize(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")


def _segments(output: str) -> Iterator[str]:
    """The leaves (keys included) of a JSON object or array; any other text is one segment."""
    stripped = output.strip()
    if stripped[:1] in ("{", "["):
        try:
            value = json.loads(stripped, parse_float=str, parse_int=str)
        except (ValueError, RecursionError):
            yield output
            return
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, dict):
                stack.extend(item.keys())
                stack.extend(item.values())
            elif isinstance(item, list):
                stack.extend(item)
            else:
                yield item if isinstance(item, str) else json.dumps(item)
    else:
        yield output


@lru_cache(maxsize=4096)
def _parts(sub_answer: str) -> tuple[tuple[_Token, ...], ...]:
    """The sub-answer's tokens, split where a ", " stands between two of them (so never inside a date or number)."""
    text = _normalize(sub_answer)
    parts: list[list[_Token]] = []
    end = 0
    for token in _scan(text):
        if not parts or ", " in text[end : token.start]:
            parts.append([])
        parts[-1].append(token)
        end = token.end
    return tuple(tuple(part) for part in parts)


def _tokens(text: str) -> tuple[_Token, ...]:
    return tuple(_scan(_normalize(text)))


def _scan(text: str) -> Iterator[_Token]:
    position = 0
    while found := _TOKEN.search(text, position):
        position = found.end()
        if found["number"] is not None:
            token = _number_token(text, found)
            position = token.end
            yield token
        elif found["word"] is not None:
            yield _Token(found.start(), found.end(), word=found["word"])
        else:
            year, month, day = _year_month_day(found)
            try:
                date(year, month, day)
            except ValueError:
                # 2023-13-45 is no day: read its first number, then go on behind it
                number = re.compile(r"\w+").match(text, found.start())
                assert number is not None
                position = number.end()
                yield _word_or_number(number.group(), number.start())
            else:
                yield _Token(found.start(), found.end(), day=(year, month, day))


def _year_month_day(found: re.Match[str]) -> tuple[int, int, int]:
    if found["y1"] is not None:
        return int(found["y1"]), int(found["m1"]), int(found["d1"])
    if found["y2"] is not None:
        return int(found["y2"]), _MONTHS[found["m2"]], int(found["d2"])
    return int(found["y3"]), _MONTHS[found["m3"]], int(found["d3"])


def _word_or_number(text: str, start: int) -> _Token:
    if text.isdecimal():
        return _Token(start, start + len(text), word=text, number=Decimal(text))
    return _Token(start, start + len(text), word=text)


def _number_token(text: str, found: re.Match[str]) -> _Token:
    """A number, with the unit right behind it ("979m", "979 metres", "50%") or before it ("$1,200") if one is known."""
    digits, attached = found["number"], found["unit"]
    if len(digits) > _LONGEST_NUMBER or (attached and attached not in _UNITS):
        return _Token(found.start(), found.end(), word=found.group())
    end, unit = found.end(), _UNITS.get(attached, "")
    if not unit:
        after = _UNIT_AFTER.match(text, end)
        if after and after[1].replace(" ", "") in _UNITS:
            unit = _UNITS[after[1].replace(" ", "")]
        elif found.start() and text[found.start() - 1] in "$€£¥":
            unit = _UNITS[text[found.start() - 1]]
    if unit and not attached:
        # the unit stays a token of its own: a sub-answer may name it as a word
        return _Token(found.start(), end, word=digits, number=Decimal(digits.replace(",", "")), unit=unit)
    return _Token(found.start(), end, word=digits, number=Decimal(digits.replace(",", "")), unit=unit)


def _holds(wanted: Sequence[_Token], tokens: Sequence[_Token]) -> bool:
    """Do the wanted tokens stand in `tokens`, one after the other?"""
    wanted = _without_unit_word(wanted)
    span = len(wanted)
    return any(
        all(_same(want, have) for want, have in zip(wanted, tokens[at : at + span], strict=True))
        for at in range(len(tokens) - span + 1)
    )


def _without_unit_word(wanted: Sequence[_Token]) -> Sequence[_Token]:
    """A sub-answer that is a number and its unit ("979 metres") is compared as a number: the unit word goes."""
    if len(wanted) == 2 and wanted[0].unit and _UNITS.get(wanted[1].word) == wanted[0].unit:
        return wanted[:1]
    return wanted


def _same(want: _Token, have: _Token) -> bool:
    if want.day is not None:
        return want.day == have.day
    if want.number is not None:
        if have.day is not None:
            return want.number == have.day[0] and len(want.word) == 4 and not want.unit
        if have.number is None or (want.unit and have.unit and want.unit != have.unit):
            return False
        return abs(want.number - have.number) <= _TOLERANCE * max(abs(want.number), abs(have.number))
    return have.number is None and have.day is None and want.word == have.word
