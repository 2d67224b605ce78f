"""Facts about elements, their discoverers and isotopes, from mendeleev's SQLite file (its import alone would take 3
s).
"""

from __future__ import annotations

import importlib.util
import re
import sqlite3
from collections import defaultdict
from pathlib import Path

from env_construction.facts.fact_tables import Tables, thousands

# Rows that do not name one person.
_NO_PERSON = re.compile(r",|;| and |ancient|team|University|Laborator|Institute|\d")


def load_chemistry(tables: Tables) -> None:
    """Fill the tables of elements, scientists and isotopes. Raises ModuleNotFoundError without mendeleev."""
    connection = sqlite3.connect(f"file:{_package_file('mendeleev', 'elements.db')}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        names = _elements(tables, connection)
        _isotopes(tables, connection, names)
    finally:
        connection.close()


def _elements(tables: Tables, connection: sqlite3.Connection) -> dict[int, str]:
    series = {row["id"]: row["name"] for row in connection.execute("select id, name from series")}
    transitions = connection.execute("select * from phasetransitions where allotrope is null")
    changes = {row["atomic_number"]: row for row in transitions}
    found: dict[str, list[str]] = defaultdict(list)
    names: dict[int, str] = {}
    for row in connection.execute("select * from elements order by atomic_number"):
        name = names[row["atomic_number"]] = row["name"]
        discoverer = (row["discoverers"] or "").strip(" .")
        if " " in discoverer and not _NO_PERSON.search(discoverer):
            tables.put("element_discoverer", name, discoverer)
            found[discoverer].append(name)
        tables.put("element_symbol", name, row["symbol"])
        tables.put("element_number", name, str(row["atomic_number"]))
        tables.put("element_weight", name, f"{row['atomic_weight']:.3f}".rstrip("0").rstrip(".") + " Da")
        tables.put("element_discovery_year", name, str(row["discovery_year"] or ""))
        tables.put("element_discovery_place", name, row["discovery_location"])
        tables.put("element_series", name, series.get(row["series_id"]))
        tables.put("element_cas", name, row["cas"])
        tables.put("element_configuration", name, row["electronic_configuration"])
        change = changes.get(row["atomic_number"])
        for column in ("melting_point", "boiling_point"):
            if change and change[column]:
                tables.put(f"element_{column}", name, f"{change[column]:,.2f}")
        if row["atomic_radius"]:
            tables.put("element_radius", name, thousands(row["atomic_radius"]))
        for column, relation in (
            ("top_3_producers", "element_top_producer"),
            ("top_3_reserve_holders", "element_top_reserve"),
        ):
            first = re.match(r"1\) ([A-Z][A-Za-z ]+?)\s*(?:2\)|$)", row[column] or "")
            if first and first[1] in tables.country_names.values():
                tables.put(relation, name, first[1])
    for person, elements in found.items():
        if len(elements) == 1:
            tables.put("scientist_element", person, elements[0])
    return names


def _isotopes(tables: Tables, connection: sqlite3.Connection, names: dict[int, str]) -> None:
    best: dict[str, tuple[float, str]] = {}
    for row in connection.execute("select * from isotopes order by id"):
        element = names[row["atomic_number"]]
        name = f"{element}-{row['mass_number']}"
        tables.put("isotope_element", name, element)
        tables.put("isotope_mass", name, f"{row['mass']:.4f}" if row["mass"] else "")
        tables.put("isotope_spin", name, row["spin"] if "/" in (row["spin"] or "") else "")
        tables.put("isotope_discovery_year", name, str(row["discovery_year"] or ""))
        if row["half_life"] and row["half_life_unit"]:
            tables.put("isotope_half_life", name, f"{row['half_life']:g} {row['half_life_unit']}")
        if row["abundance"] and row["abundance"] > best.get(element, (0.0, ""))[0]:
            best[element] = (row["abundance"], name)
    for element, (_, name) in best.items():
        tables.put("element_stable_isotope", element, name)


def _package_file(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the fact author reads {name} of the package {package!r}, which is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / name
