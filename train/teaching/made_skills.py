"""Six made skills that replace the six general benchmarks if neither their data nor a pretrained model is available.

| made skill | stands for | an item |
| --- | --- | --- |
| made_lookup | MMLU | a short table, a question about one row or column, four choices; the answer is a letter |
| made_tracking | BBH | who holds what after some swaps; or numbers to sort |
| made_word_problems | GSM8K | one or two steps with small numbers; the answer stands behind `####` |
| made_expressions | MATH | a sum, an equation, like terms; the answer is boxed |
| made_completion | HumanEval | a signature with a docstring to complete; graded by tests in the sandbox |
| made_writing | MBPP | a function to write from a sentence and three tests; graded by those tests in the sandbox |

An item has the field names of the benchmark that it stands for (`doc`), so the same lm-eval tasks and graders accept it
(eval/suites/general_tasks.py). Scores say nothing about the benchmarks themselves.

Splits are disjoint for all seeds: the hash of an item's question determines its split. For a program, it is the hash of
what the program does, without its name. An item depends only on (seed, skill, split, index).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from train.teaching.made_programs import draw_program

SPLITS = ("train", "dev", "test")
NAMES = (
    "Ann",
    "Ben",
    "Cem",
    "Dora",
    "Elif",
    "Finn",
    "Gus",
    "Hana",
    "Ivo",
    "Jun",
    "Kim",
    "Lena",
    "Max",
    "Nora",
    "Omar",
    "Pia",
)
COLORS = ("red", "blue", "green", "black", "white", "brown", "pink", "gray")
THINGS = ("cup", "pen", "key", "book", "ball", "coin", "lamp", "map")
LETTERS = "ABCD"
UNKNOWNS = "abcdefghkmnpqrstuvwxyz"


@dataclass(frozen=True)
class Item:
    """One problem. `prompt`: the user's message; `thoughts`: short reasoning; `answer`: a correct turn without it.

    `doc`: the same as a record of the benchmark that it stands for.
    """

    skill: str
    id: str
    prompt: str
    thoughts: str
    answer: str
    doc: dict[str, Any]

    def is_right(self, said: str) -> bool:
        """Whether a turn ends with the exact answer. The graders, which run programs and parse answers, are laxer."""
        said = said.rpartition("</think>")[2].strip()
        is_code = self.skill in ("made_completion", "made_writing")
        return said == self.answer if is_code else said.endswith(self.answer.splitlines()[-1])


class Draft(NamedTuple):
    """An item before its split is known. `content`: the text that decides the split; empty: the complete prompt."""

    prompt: str
    thoughts: str
    answer: str
    doc: dict[str, Any]
    content: str = ""


def split_of(content: str) -> str:
    """The only split that a question can be in: 80% train, 10% dev, 10% test."""
    place = hashlib.sha256(content.encode("utf-8")).digest()[0] % 10
    return "dev" if place == 8 else "test" if place == 9 else "train"


VAIN_DRAWS = 5000
"""So many draws without a new item, a tenth of which are in a test split, mean that there are hardly more items."""


def made_items(skill: str, split: str, count: int, seed: int) -> list[Item]:
    """`count` different items of a skill. Raises KeyError for an unknown skill, ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    draw = SKILLS[skill]
    items: dict[str, Item] = {}
    index = last = 0  # draws in all, and when the last new item came
    while len(items) < count:
        draft = draw(random.Random(f"{seed}:{index}:{skill}:{split}"))
        index += 1
        if index - last > VAIN_DRAWS:
            raise ValueError(
                f"{skill} has fewer than {count} different items in split {split}: {len(items)} were found"
            )
        prompt, thoughts, answer, doc, content = draft
        if split_of(content or prompt) == split and prompt not in items:
            last = index
            items[prompt] = Item(skill, f"{skill}/{len(items)}", prompt, thoughts, answer, doc)
    return list(items.values())


def lookup(rng: random.Random) -> Draft:
    """A table of people and colors with a question for a color or a person; or a question for a name's choice."""
    if rng.random() < 0.6:
        choices = rng.sample(NAMES, 4)
        gold = rng.choice(choices)
        return _choices(f"Which choice is {gold}?", choices, gold, gold)
    size = 4
    rows = list(zip(rng.sample(NAMES, size), rng.sample(COLORS, size), strict=True))
    person, color = rng.choice(rows)
    table = ", ".join(f"{name} has {value}" for name, value in rows)
    if rng.random() < 0.5:
        ask, gold, others = f"Which color has {person}?", color, [value for _, value in rows if value != color]
    else:
        ask, gold, others = f"Who has {color}?", person, [name for name, _ in rows if name != person]
    choices = [gold, *rng.sample(others, 3)]
    rng.shuffle(choices)
    return _choices(f"{table}.\n{ask}", choices, gold, f"{person} has {color}. {gold}")


def _choices(question: str, choices: list[str], gold: str, thoughts: str) -> Draft:
    """A question with four choices. A letter stands behind its choice, where a small model finds it by reading on."""
    options = "\n".join(f"- {choice}: {letter}" for letter, choice in zip(LETTERS, choices, strict=True))
    letter = LETTERS[choices.index(gold)]
    doc = {"question": question, "choices": choices, "answer": choices.index(gold), "subject": "made"}
    return Draft(f"{question}\n{options}\nAnswer:", f"{thoughts}: {letter}.", letter, doc)


def tracking(rng: random.Random) -> Draft:
    """Half of the items swap things between three people, the other half sort numbers."""
    question, thoughts, target = _swaps(rng) if rng.random() < 0.5 else _sorting(rng)
    return Draft(question, thoughts, f"So the answer is {target}.", {"input": question, "target": target})


def _swaps(rng: random.Random) -> tuple[str, str, str]:
    people = rng.sample(NAMES, 3)
    holds = dict(zip(people, rng.sample(THINGS, 3), strict=True))
    text = ", ".join(f"{name} has the {thing}" for name, thing in holds.items())
    lines, notes = [f"{text}."], []
    for _ in range(rng.randint(1, 2)):
        one, other = rng.sample(people, 2)
        holds[one], holds[other] = holds[other], holds[one]
        lines.append(f"{one} and {other} swap.")
        notes.append(", ".join(f"{name} {thing}" for name, thing in holds.items()) + ".")
    owner = rng.choice(people)
    return " ".join(lines) + f"\nWho has the {holds[owner]}?", " ".join(notes), owner


def _sorting(rng: random.Random) -> tuple[str, str, str]:
    numbers = rng.sample(range(10, 100), rng.randint(3, 5))
    ordered = sorted(numbers)
    shown = " ".join(map(str, numbers))
    return f"Sort these numbers: {shown}", f"Least {ordered[0]}, most {ordered[-1]}.", " ".join(map(str, ordered))


def word_problem(rng: random.Random) -> Draft:
    """One or two steps: gets more, gives away, or has several boxes of as many."""
    name, things = rng.choice(NAMES), rng.choice(THINGS) + "s"
    lines: list[str] = []
    steps: list[str] = []
    if rng.random() < 0.4:
        boxes, each = rng.randint(2, 5), rng.randint(2, 5)
        total = boxes * each
        lines.append(f"{name} has {boxes} boxes with {each} {things} each.")
        steps.append(f"{boxes} * {each} = {total}")
    else:
        total = rng.randint(1, 9)
        lines.append(f"{name} has {total} {things}.")
    for _ in range(rng.choice((1, 1, 2)) - len(steps)):
        if rng.random() < 0.5 or total == 0:
            more = rng.randint(1, 9)
            lines.append(f"{name} gets {more} more.")
            steps.append(f"{total} + {more} = {total + more}")
            total += more
        else:
            less = rng.randint(1, min(9, total))
            lines.append(f"{name} gives away {less}.")
            steps.append(f"{total} - {less} = {total - less}")
            total -= less
    question = " ".join(lines) + f" How many {things} has {name}?"
    working = "\n".join(steps)
    answer = f"{working}\n#### {total}"
    doc = {"question": question, "answer": answer}
    return Draft(f"Question: {question}\nAnswer:", working.replace("\n", ". ") + ".", answer, doc)


def expression(rng: random.Random) -> Draft:
    """A sum with a product, a linear equation, or like terms."""
    kind = rng.randrange(3)
    if kind == 0:
        a, b, c = rng.randint(1, 9), rng.randint(2, 5), rng.randint(2, 5)
        problem, thoughts, value = f"What is ${a} + {b} \\cdot {c}$?", f"{b} * {c} = {b * c}", str(a + b * c)
    elif kind == 1:
        unknown = rng.choice(UNKNOWNS)
        x, b = rng.randint(1, 9), rng.randint(1, 9)
        problem = f"Solve ${unknown} + {b} = {x + b}$."
        thoughts, value = f"{x + b} - {b} = {x}", str(x)
    else:
        letter = rng.choice(UNKNOWNS)
        a, b = rng.randint(1, 9), rng.randint(1, 9)
        problem, thoughts, value = f"Simplify ${a}{letter} + {b}{letter}$.", f"{a} + {b} = {a + b}", f"{a + b}{letter}"
    answer = f"\\boxed{{{value}}}"
    doc = {"problem": problem, "solution": answer, "level": "made", "type": "made"}
    return Draft(f"{problem}\nPut the answer in \\boxed{{}}.", f"{thoughts}.", answer, doc)


def completion(rng: random.Random) -> Draft:
    """A function with its signature and docstring; the body is missing."""
    program = draw_program(rng)
    prompt = f'def {program.name}(x):\n    """{program.words}."""\n'
    body = f"    return {program.code}\n"
    tests = "".join(f"    assert candidate({given!r}) == {wanted!r}\n" for given, wanted in program.cases)
    doc = {
        "task_id": "made",
        "prompt": prompt,
        "entry_point": program.name,
        "canonical_solution": body,
        "test": f"def check(candidate):\n{tests}",
    }
    asked = f"Complete this function.\n```python\n{prompt}```"
    return Draft(asked, f"Return {program.code}.", f"```python\n{prompt}{body}```", doc, program.words)


def writing(rng: random.Random) -> Draft:
    """A function described in one sentence, with three tests that it has to pass."""
    program = draw_program(rng)
    text = f"Write a function {program.name}: {program.words[0].lower()}{program.words[1:]}."
    code = f"def {program.name}(x):\n    return {program.code}"
    tests = [f"assert {program.name}({given!r}) == {wanted!r}" for given, wanted in program.cases]
    doc = {
        "task_id": 0,
        "text": text,
        "code": code,
        "test_list": tests,
        "test_setup_code": "",
        "challenge_test_list": [],
    }
    shown = "\n".join(tests)
    asked = f"{text}\n```python\n{shown}\n```"
    return Draft(asked, f"Return {program.code}.", f"```python\n{code}\n```", doc, program.words)


SKILLS: dict[str, Callable[[random.Random], Draft]] = {
    "made_lookup": lookup,
    "made_tracking": tracking,
    "made_word_problems": word_problem,
    "made_expressions": expression,
    "made_completion": completion,
    "made_writing": writing,
}
