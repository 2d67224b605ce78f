"""Each language rule finds its error and leaves a similar correct text alone."""

from __future__ import annotations

import pytest

from env_construction.rules.language_rules import RULES, language_findings

CASES = {
    "doubled_word": [
        ("Which river flows through through the city?", "Which river flows through the city?"),
        ("Who wrote the a poem about the sea?", "Who wrote a poem about the sea?"),
    ],
    "wrong_article": [
        ("Which hall first staged a opera there?", "Which hall first staged an opera there?"),
        ("When did an university open in the town?", "When did a university open in the town?"),
        ("Who waited for a hour at the station?", "Who waited for an hour at the station?"),
        ("Who met a actor there?", "What is the population of Geislingen an der Steige?"),
    ],
    "wrong_number": [
        ("How many page does the book have?", "How many pages does the book have?"),
        ("Which shop sold 12 bicycle in May?", "Which shop sold 12 gold bicycles in May?"),
        ("Who led this poets of the north?", "Who led these poets of the north?"),
        ("Please move 110 crown into the wallet.", "Please move 110 into the wallet."),
        ("How many city are on the list?", "Of Beshkent and Wanmu, how many have a population above 58,209?"),
        ("Which peak is 830 foot high?", "What is the country of the airport (elevation: between 800 and 830 ft)?"),
    ],
    "unfilled_slot": [("When was {name} founded by them?", "When was the society founded by them?")],
    "doubled_mark": [
        ("Who wrote the book,, and when?", "Who wrote the book, and when?"),
        ('When did "Silver Dust open?', 'When did "Silver Dust" open?'),
    ],
    "missing_capital": [
        ("which city is the largest one?", "Which city is the largest one?"),
        ("Find the largest city. what is it?", "Which city is nearest to Budapest XXIII. kerület?"),
    ],
    "wrong_end": [
        ("Which city is the largest one.", "Which city is the largest one?"),
        ("Please look up the largest city?", "Please look up the largest city."),
        ("Which city is the largest one", "Is it the largest one?"),
        ("Let it be city A. Which is city A.", "Which element did Antoine J. Balard discover?"),
    ],
    "bad_length": [
        ("Which one?", "Which one is it?"),
        ("Which city is " + "very " * 300 + "large?", "Is it very large?"),
    ],
    "repeated_phrase": [
        ("Who owns the mill near the old bridge? Who owns the mill near the old bridge?", "Who owns the mill?")
    ],
    "nested_too_deeply": [
        (
            "Who met the man " + "who knows the man " * 8 + "at the fair?",
            "Who met the man who knows the man at the fair?",
        )
    ],
}


@pytest.mark.parametrize(
    ("rule", "wrong", "right"), [(rule, *texts) for rule, pairs in CASES.items() for texts in pairs]
)
def test_a_rule_finds_its_error(rule: str, wrong: str, right: str) -> None:
    assert rule in {name for name, _ in language_findings(wrong, question=True)}
    assert language_findings(right, question=True) == []


def test_every_rule_has_cases() -> None:
    assert set(CASES) == set(RULES)
