"""The made skills: splits are disjoint, an item depends only on its seed, an independent solution confirms answers."""

import itertools
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.teaching.made_programs import draw_program
from train.teaching.made_skills import SKILLS, SPLITS, Item, made_items


@pytest.mark.parametrize("skill", SKILLS)
def test_no_question_is_in_two_splits_whatever_the_seeds(skill: str) -> None:
    prompts = [{item.prompt for seed in (0, 1) for item in made_items(skill, split, 60, seed)} for split in SPLITS]
    assert not any(one & other for one, other in itertools.combinations(prompts, 2))
    assert all(len(found) > 60 for found in prompts)


def test_the_two_programming_skills_share_no_program_across_splits() -> None:
    """Whatever the function is called: what decides is what it is asked to do."""

    def asked(item: Item) -> str:
        found = re.search(r'"""(.*)\."""|Write a function \w+: (.*)\.', item.prompt)
        assert found is not None
        return (found[1] or found[2]).lower()

    tasks = {
        split: {
            asked(item) for skill in ("made_completion", "made_writing") for item in made_items(skill, split, 150, 0)
        }
        for split in SPLITS
    }
    assert not tasks["train"] & tasks["test"] and not tasks["train"] & tasks["dev"] and len(tasks["dev"]) > 100


@pytest.mark.parametrize("skill", SKILLS)
def test_items_depend_on_seed_and_place_alone_and_differ(skill: str) -> None:
    few, many = made_items(skill, "dev", 20, 3), made_items(skill, "dev", 40, 3)
    assert many[:20] == few and many != made_items(skill, "dev", 40, 4)
    assert len({item.prompt for item in many}) == len({item.id for item in many}) == 40
    assert len({item.answer for item in many}) > 2


def test_more_items_than_there_are_and_unknown_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="made_expressions has fewer than 100000 different items in split dev"):
        made_items("made_expressions", "dev", 100_000, 0)
    with pytest.raises(ValueError, match="unknown split 'val'"):
        made_items("made_lookup", "val", 1, 0)


def answer_again(skill: str, doc: dict[str, Any]) -> str:
    """The right answer, worked out from the question's text alone."""
    if skill == "made_lookup":
        if found := re.search(r"Which choice is (\w+)", doc["question"]):
            return "ABCD"[doc["choices"].index(found[1])]
        table = dict(re.findall(r"(\w+) has (\w+)", doc["question"].splitlines()[0]))
        asked = re.search(r"Which color has (\w+)|Who has (\w+)", doc["question"].splitlines()[1])
        assert asked is not None
        wanted = table[asked[1]] if asked[1] else next(name for name, value in table.items() if value == asked[2])
        return "ABCD"[doc["choices"].index(wanted)]
    if skill == "made_tracking":
        text = doc["input"]
        if text.startswith("Sort"):
            target = " ".join(sorted(text.rpartition(": ")[2].split(), key=int))
            return f"So the answer is {target}."
        holds = dict(re.findall(r"(\w+) has the (\w+)[,.]", text.splitlines()[0]))
        for one, other in re.findall(r"(\w+) and (\w+) swap", text):
            holds[one], holds[other] = holds[other], holds[one]
        thing = text.rpartition("the ")[2].rstrip("?")
        return f"So the answer is {next(name for name, held in holds.items() if held == thing)}."
    if skill == "made_word_problems":
        numbers = [int(found) for found in re.findall(r"\d+", doc["question"])]
        boxes = re.search(r"has (\d+) boxes with (\d+)", doc["question"])
        total = int(boxes[1]) * int(boxes[2]) if boxes else numbers[0]
        total += sum(int(found) for found in re.findall(r"gets (\d+) more", doc["question"]))
        total -= sum(int(found) for found in re.findall(r"gives away (\d+)", doc["question"]))
        return f"#### {total}"
    problem = doc["problem"]
    numbers = [int(found) for found in re.findall(r"\d+", problem)]
    if problem.startswith("Solve"):
        return f"\\boxed{{{numbers[1] - numbers[0]}}}"
    if problem.startswith("Simplify"):
        letter = re.search(r"\d([a-z])", problem)
        assert letter is not None
        return f"\\boxed{{{sum(numbers)}{letter[1]}}}"
    return f"\\boxed{{{numbers[0] + numbers[1] * numbers[2]}}}"


@pytest.mark.parametrize("skill", ["made_lookup", "made_tracking", "made_word_problems", "made_expressions"])
def test_the_answer_follows_from_the_question(skill: str) -> None:
    for item in made_items(skill, "dev", 120, 5):
        again = answer_again(skill, item.doc)
        assert item.answer.endswith(again), item
        assert item.is_right(item.answer) and item.is_right(f"<think>\n{item.thoughts}\n</think>\n\n{item.answer}")
        assert not item.is_right("") and not item.is_right(item.answer + " 1")


@given(st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_a_program_gives_what_its_operations_give(rng: Any) -> None:
    program = draw_program(rng)
    for given_value, wanted in program.cases:
        assert eval(program.code, {"x": given_value, "max": max, "min": min}) == wanted
