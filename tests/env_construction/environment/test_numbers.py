"""Numbers as people, models and LaTeX write them have one value everywhere."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from env_construction.environment.matching import answer_in_text, strict_match
from env_construction.environment.numbers import numbers_in, plain_typography

MINUS_SIGNS = "-\u2010\u2011\u2012\u2013\u2212\u2796\ufe63\uff0d"
SEPARATORS = [
    ",", "{,}", "\\,", "\\!", "\\;", "\\:", "{\\,}", ",\\!", ",\\! ", "{,}\\!",
    "\u00a0", "\u2009", "\u202f", "\u2007",
]  # fmt: skip


def values(text: str) -> list[Decimal]:
    return [found.value for found in numbers_in(plain_typography(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9{,}500", [9500]),
        ("11,\\!111 and 11,\\! 111", [11111, 11111]),
        ("1{,}234{,}567.5", ["1234567.5"]),
        ("it is 18.", [18]),
        ("$18.00, or -$5, or $-5, or \\$7", ["18.00", -5, -5, 7]),
        ("5% or 5\\%", [5, 5]),
        ("10-20, 10\u201320 and x-4", [10, 20, 10, 20, 4]),
        ("x^{2}-4", [2, 4]),
        ("1, 234", [1, 234]),
        ("1 234", [1, 234]),
        ("12,34", [12, 34]),
        ("2023\u00a0100", [2023, 100]),
        ("v2 x1 3rd", [3]),
        ("1e3 and 2E-1", [1000, "0.2"]),
        ("4\uff12", [42]),
        ("9" * 500, []),
        ("none", []),
    ],
)
def test_numbers_of_a_text(text: str, expected: list) -> None:
    assert values(text) == [Decimal(value) for value in expected]


@given(
    st.integers(0, 10**12), st.sampled_from(SEPARATORS), st.sampled_from(["", *MINUS_SIGNS]), st.sampled_from("$€£ ")
)
def test_every_way_to_typeset_an_integer_gives_that_integer(number, separator, minus, currency) -> None:
    digits = f"{number:,}".replace(",", separator)
    value = -number if minus else number
    for text in (f"It is {minus}{digits}.", f"It is {currency}{minus}{digits} in all", f"\\({minus}{digits}\\)"):
        assert values(text) == [value], text


@given(st.integers(1000, 10**9), st.sampled_from(SEPARATORS), st.sampled_from(MINUS_SIGNS))
def test_strict_matching_reads_the_same_numbers(number, separator, minus) -> None:
    typeset = f"{number:,}".replace(",", separator)
    assert answer_in_text(str(number), f"In all {typeset} people.", "strict")
    assert strict_match(str(-number), f'{{"change": "{minus}{typeset}"}}'.replace("\\", "\\\\"))
    assert not answer_in_text(str(number), f"In all {minus}{typeset} people.", "strict")
    assert not answer_in_text(str(number % 1000), f"In all {typeset} people.", "strict") or number % 1000 == number


def test_a_minus_before_a_currency_counts() -> None:
    assert answer_in_text("-$5", "You owe us: -$5.00", "strict")
    assert not answer_in_text("$5", "You owe us: -$5.00", "strict")
