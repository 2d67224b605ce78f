"""Facts about codes and names: ISO countries, currencies, languages, scripts, subdivisions (pycountry), demonyms
(countryinfo).
"""

from __future__ import annotations

from typing import Any

import pycountry
from countryinfo import all_countries

from env_construction.facts.fact_tables import Tables, unique_names

_STATUS = {"L": "living", "E": "extinct", "A": "ancient", "H": "historical", "C": "constructed", "S": "special"}


def load_codes(tables: Tables) -> None:
    """Fill the tables of country codes and of currencies, languages, families, scripts, subdivisions and former
    countries.
    """
    _countries(tables)
    for row in pycountry.currencies:
        tables.put("currency_code", row.name, row.alpha_3)
        tables.put("currency_number", row.name, row.numeric)
    for name, row in unique_names((row.name, row) for row in pycountry.languages).items():
        tables.put("language_code", name, row.alpha_3)
        tables.put("language_status", name, _STATUS[row.type])
    for row in pycountry.language_families:
        tables.put("family_code", row.name, row.alpha_3)
    for row in pycountry.scripts:
        tables.put("script_code", row.name, row.alpha_4)
        tables.put("script_number", row.name, row.numeric)
    parents = {row.code: row.name for row in pycountry.subdivisions}
    for name, row in unique_names((row.name, row) for row in pycountry.subdivisions).items():
        tables.put("subdivision_country", name, tables.country_names.get(row.country_code))
        tables.put("subdivision_code", name, row.code)
        tables.put("subdivision_type", name, row.type)
        tables.put("subdivision_parent", name, parents.get(row.parent_code or ""))
    for row in pycountry.historic_countries:
        name = row.name.split(",")[0]
        day = getattr(row, "withdrawal_date", "")
        tables.put("territory_withdrawal", name, day if len(day) == len("1992-08-30") else "")
        tables.put("territory_alpha3", name, row.alpha_3)
        tables.put("territory_alpha4", name, row.alpha_4)


def _countries(tables: Tables) -> None:
    known: dict[str, dict[str, Any]] = {}
    for country in all_countries():
        info: dict[str, Any] = dict(country.info())
        known[info.get("ISO", {}).get("alpha2", "")] = info
    for row in pycountry.countries:
        name = tables.country_names.get(row.alpha_2)
        if name is None:
            continue
        tables.put("country_official_name", name, getattr(row, "official_name", ""))
        tables.put("country_alpha2", name, row.alpha_2)
        tables.put("country_alpha3", name, row.alpha_3)
        tables.put("country_numeric", name, row.numeric)
        info = known.get(row.alpha_2, {})
        for key, relation in (
            ("demonym", "country_demonym"),
            ("subregion", "country_subregion"),
            ("nativeName", "country_native_name"),
        ):
            value = info.get(key)
            tables.put(relation, name, value if isinstance(value, str) else "")
