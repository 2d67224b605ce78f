"""Tables of facts and how values are written: what the loaders of the data packages share.

A table is {entity: value}, one for each relation, all strings. `Tables.put` drops empty values; `usable` says which
names can be quoted in a question and in a call.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

Table = dict[str, str]
Place = tuple[float, float]
"""Latitude and longitude in degrees."""
_EARTH_KM = 6371.0


class Tables:
    """{relation: {entity: value}} in the making, the places that pairs need, and the country names by ISO code."""

    def __init__(self) -> None:
        self.rows: dict[str, Table] = defaultdict(dict)
        self.places: dict[str, dict[str, Place]] = {"city": {}, "airport": {}}
        self.people: dict[str, int] = {}
        self.country_names: dict[str, str] = {}

    def put(self, relation: str, subject: str, value: str | None) -> None:
        """Note a fact; a missing or blank value is no fact."""
        if value and value.strip():
            self.rows[relation][subject] = value.strip()


def thousands(value: float) -> str:
    """12345.0 -> "12,345"; fractions below 100 keep up to two digits."""
    if value == int(value) or abs(value) >= 100:
        return f"{round(value):,}"
    return f"{value:.2f}".rstrip("0").rstrip(".")


def degrees(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):.2f}° {positive if value >= 0 else negative}"


def great_circle_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Distance in km between two (latitude, longitude) pairs in degrees."""
    lat1, lon1, lat2, lon2 = map(math.radians, (*a, *b))
    h = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * _EARTH_KM * math.asin(min(1.0, math.sqrt(h)))


def unit_vector(latitude: float, longitude: float) -> tuple[float, float, float]:
    lat, lon = math.radians(latitude), math.radians(longitude)
    return math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)


def usable(name: str) -> bool:
    """A name can be quoted in a question and in a call: no separators that matching or listing would split at."""
    return 2 < len(name) <= 48 and not any(mark in name for mark in (",", ";", "(", "/", '"', "\\", "{", "\n"))


def unique_names(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Keep what is named once and usable."""
    pairs = list(pairs)
    counts = Counter(name for name, _ in pairs)
    return {name: value for name, value in pairs if counts[name] == 1 and usable(name)}
