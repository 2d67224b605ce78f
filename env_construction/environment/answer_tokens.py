"""Split text into comparable tokens: words, numbers with their unit, days. `strict` matching compares these.

A token matches completely or not at all. "2023" does not contain "2". A date contains its year, but not its day as a
number. A version or a time of day ("1.2.3", "12:30") is one word. Numbers compare by value, ignoring thousands
separators. A known unit before or after a number matters only against another known unit. Case, Unicode compatibility
forms and punctuation are ignored.
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

from env_construction.environment.numbers import CURRENCY, SIGNED_NUMBER, number_value, plain_typography

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
        ("inch", "inches"),
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
        ("kelvin",),
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
    r"|(?<![\w.])(?P<chain>\d+(?:\.\d+){2,}|\d{1,2}:\d{2}(?::\d{2})?)(?!\w)"
    rf"|(?P<number>{SIGNED_NUMBER})(?P<unit>[^\W\d_]*[23]?)(?!\w)"
    r"|(?P<word>\w+[+#]*)"
)
_UNIT_AFTER = re.compile(r"\s?(%|°\s?[cf](?!\w)|[^\W\d_]+[23]?)(?!\w)")
_TOLERANCE = Decimal("1e-9")


@dataclass(frozen=True)
class Token:
    """A word, a number with or without unit, or a day. `start` and `end` are offsets in the normalized text."""

    start: int
    end: int
    word: str = ""
    number: Decimal | None = None
    unit: str = ""
    day: tuple[int, int, int] | None = None


def _normalize(text: str) -> str:
    return unicodedata.normalize("NFKC", plain_typography(text)).casefold()


def segments_of(output: str) -> Iterator[str]:
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
def parts_of(sub_answer: str) -> tuple[tuple[Token, ...], ...]:
    """The sub-answer's tokens, split at each ", " between two of them (so never within a date or number)."""
    text = _normalize(sub_answer)
    parts: list[list[Token]] = []
    end = 0
    for token in _scan(text):
        if not parts or ", " in text[end : token.start]:
            parts.append([])
        parts[-1].append(token)
        end = token.end
    return tuple(tuple(part) for part in parts)


def tokens_of(text: str) -> tuple[Token, ...]:
    """The tokens of a text, in order."""
    return tuple(_scan(_normalize(text)))


def _scan(text: str) -> Iterator[Token]:
    position = 0
    while found := _TOKEN.search(text, position):
        position = found.end()
        if found["number"] is not None:
            token = _number_token(text, found)
            position = token.end
            yield token
        elif found["word"] is not None or found["chain"] is not None:
            # a chain is a version, an address or a time of day: its parts are not separate numbers
            yield Token(found.start(), found.end(), word=found.group())
        else:
            year, month, day = _year_month_day(found)
            try:
                date(year, month, day)
            except ValueError:
                # 2023-13-45 is not a date: take its first part, and continue after it
                part = text[found.start() : found.end()]
                length = next((i for i, character in enumerate(part) if not character.isalnum()), len(part))
                position = found.start() + length
                number = Decimal(part[:length]) if part[:length].isdecimal() else None
                yield Token(found.start(), position, word=part[:length], number=number)
            else:
                yield Token(found.start(), found.end(), day=(year, month, day))


def _year_month_day(found: re.Match[str]) -> tuple[int, int, int]:
    if found["y1"] is not None:
        return int(found["y1"]), int(found["m1"]), int(found["d1"])
    if found["y2"] is not None:
        return int(found["y2"]), _MONTHS[found["m2"]], int(found["d2"])
    return int(found["y3"]), _MONTHS[found["m3"]], int(found["d3"])


def _number_token(text: str, found: re.Match[str]) -> Token:
    """A number, with its unit if one is known: right after it ("979m", "979 metres", "50%") or before it ("$1,200")."""
    digits, attached = found["number"], found["unit"]
    value = number_value(digits)
    if value is None or (attached and attached not in _UNITS):
        return Token(found.start(), found.end(), word=found.group())
    end, unit = found.end(), _UNITS.get(attached, "")
    if not unit:
        after = _UNIT_AFTER.match(text, end)
        if after and after[1].replace(" ", "") in _UNITS:
            unit = _UNITS[after[1].replace(" ", "")]
        elif before := [
            sign for sign in (digits + text[max(found.start() - 1, 0) : found.start()]) if sign in CURRENCY
        ]:
            unit = _UNITS[before[0]]
    # a separate unit remains a token, because a sub-answer may name it as a word
    return Token(found.start(), end, word=digits, number=value, unit=unit)


def holds(wanted: Sequence[Token], have: Sequence[Token]) -> bool:
    """Whether `have` contains the wanted tokens, one after another."""
    wanted = _without_unit_word(wanted)
    span = len(wanted)
    for at in range(len(have) - span + 1):
        for want, found in zip(wanted, have[at : at + span], strict=True):
            if not _same(want, found):
                break
        else:
            return True
    return False


def _without_unit_word(wanted: Sequence[Token]) -> Sequence[Token]:
    """Drop the unit word of a sub-answer that is a number and its unit ("979 metres"): it compares as a number."""
    if len(wanted) == 2 and wanted[0].unit and _UNITS.get(wanted[1].word) == wanted[0].unit:
        return wanted[:1]
    return wanted


def _same(want: Token, have: Token) -> bool:
    if want.day is not None:
        return want.day == have.day
    if want.number is not None:
        if have.day is not None:
            return want.number == have.day[0] and len(want.word) == 4 and not want.unit
        if have.number is None or (want.unit and have.unit and want.unit != have.unit):
            return False
        return abs(want.number - have.number) <= _TOLERANCE * max(abs(want.number), abs(have.number))
    return have.number is None and have.day is None and want.word == have.word
