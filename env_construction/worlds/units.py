"""Units of quantities: their names, and the units that a tool can convert them to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """`one` and `many` are its singular and plural; `others` lists (unit, conversion factor)."""

    one: str
    many: str
    others: tuple[tuple[str, float], ...] = ()


UNITS: dict[str, Unit] = {
    "km": Unit("kilometer", "kilometers", (("mi", 0.621371),)),
    "mi": Unit("mile", "miles"),
    "m": Unit("meter", "meters", (("ft", 3.28084),)),
    "ft": Unit("foot", "feet"),
    "cm": Unit("centimeter", "centimeters", (("in", 0.393701),)),
    "mm": Unit("millimeter", "millimeters", (("in", 0.0393701),)),
    "in": Unit("inch", "inches"),
    "kg": Unit("kilogram", "kilograms", (("lb", 2.20462),)),
    "g": Unit("gram", "grams", (("oz", 0.035274),)),
    "mg": Unit("milligram", "milligrams"),
    "lb": Unit("pound", "pounds"),
    "oz": Unit("ounce", "ounces"),
    "t": Unit("tonne", "tonnes", (("lb", 2204.62),)),
    "ha": Unit("hectare", "hectares", (("acres", 2.47105),)),
    "acres": Unit("acre", "acres"),
    "km2": Unit("square kilometer", "square kilometers", (("mi2", 0.386102),)),
    "mi2": Unit("square mile", "square miles"),
    "m2": Unit("square meter", "square meters", (("ft2", 10.7639),)),
    "ft2": Unit("square foot", "square feet"),
    "l": Unit("liter", "liters", (("gal", 0.264172),)),
    "ml": Unit("milliliter", "milliliters"),
    "gal": Unit("gallon", "gallons"),
    "km/h": Unit("kilometer per hour", "kilometers per hour", (("mph", 0.621371),)),
    "mph": Unit("mile per hour", "miles per hour"),
    "MW": Unit("megawatt", "megawatts", (("kW", 1000.0),)),
    "kW": Unit("kilowatt", "kilowatts"),
    "min": Unit("minute", "minutes"),
    "h": Unit("hour", "hours", (("min", 60.0),)),
    "days": Unit("day", "days"),
    "weeks": Unit("week", "weeks"),
    "months": Unit("month", "months"),
    "years": Unit("year", "years"),
    "USD": Unit("dollar", "dollars"),
    "%": Unit("percent", "percent"),
    "ly": Unit("light-year", "light-years", (("pc", 0.306601),)),
    "pc": Unit("parsec", "parsecs"),
    "GB": Unit("gigabyte", "gigabytes", (("MB", 1024.0),)),
    "MB": Unit("megabyte", "megabytes"),
    "ms": Unit("millisecond", "milliseconds"),
    "dB": Unit("decibel", "decibels"),
    "ppm": Unit("part per million", "parts per million"),
    "C": Unit("degree Celsius", "degrees Celsius"),
    "hPa": Unit("hectopascal", "hectopascals"),
    "Hz": Unit("hertz", "hertz"),
    "kcal": Unit("kilocalorie", "kilocalories", (("kJ", 4.184),)),
    "kJ": Unit("kilojoule", "kilojoules"),
    "V": Unit("volt", "volts"),
}
