"""MATH's grader: known equalities, an answer that never ends, threads, and the authors' reading of a response."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from eval.graders import math_grader
from eval.graders.math_grader import published_math, same_expression

EQUAL = [
    ("\\frac{1}{2}", "0.5"), ("\\frac{1}{2}", "\\dfrac12"), ("e^{2}", "e^2"), ("\\text{(C)}", "C"),
    ("\\text{Monday}", "Monday"),
    ("2\\sqrt3", "\\sqrt{12}"), ("a+b", "b+a"), ("\\{1,2\\}", "\\{2,1\\}"), ("{1,2}", "{2,1}"), ("1000", "1,000"),
    ("9500", "9{,}500"),
    ("10\\,000", "10000"),
    ("11111", "11,\\! 111"), ("-4", "\u22124"), ("1-\\sqrt2", "1-\\sqrt{2}"), ("(2,5]", "(2, 5]"),
    ("x=3", "3"),
    ("50\\%", "50"), ("10", "10\\text{ cm}"), ("90^\\circ", "90"), ("2x+1", "1+2x"), ("3\\frac{1}{2}", "3.5"),
    ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
]  # fmt: skip
DIFFERENT = [
    ("2", "3"), ("4", "-4"), ("x^2", "x^3"), ("(1,2)", "(2,1)"), ("(2,5]", "[2,5]"), ("\\text{odd}", "\\text{even}"),
    ("A", "B"),
    ("\\frac{1}{3}", "0.333"), ("\\pi", "3.14159"), ("500", "9{,}500"), ("6", ""), ("6", "\\boxed{"),
    ("6", "\\frac{" * 300),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_expressions_are_equal_both_ways(gold: str, answer: str) -> None:
    assert same_expression(gold, answer) and same_expression(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_expressions_are_not_equal(gold: str, answer: str) -> None:
    assert not same_expression(gold, answer)


def test_an_answer_that_never_ends_is_wrong_in_any_thread_and_the_next_one_is_graded(monkeypatch) -> None:
    monkeypatch.setattr(math_grader, "SECONDS", 1.0)
    begun = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        hanging = [threads.submit(same_expression, "1", "9^{9^{9^{9}}}") for _ in range(2)]
        assert not any(future.result() for future in hanging)
    assert time.monotonic() - begun < 100  # SECONDS each, and two starts of the process
    monkeypatch.setattr(math_grader, "SECONDS", 20.0)
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda number: same_expression(str(number), f"{number}.0"), range(20)))


@pytest.mark.parametrize(
    ("gold", "response", "correct"),
    [
        ("3", "Guess $2$, so \\boxed{3}.", True),
        ("3", "\\boxed{2}, no: \\boxed{3}", False),  # the first box counts
        ("3", "\\boxed{3}, the final answer is $2$.", True),
        ("3", "The answer is $x = 3$.", True),
        ("3", "So $x = 3$.", False),  # without a box, the word "answer" must come first
        ("3", "The answer is 3.", False),  # plain text is not LaTeX
        ("3", "", False),
    ],
)
def test_the_authors_reading_of_a_response(gold: str, response: str, correct: bool) -> None:
    assert published_math(gold, response) is correct
