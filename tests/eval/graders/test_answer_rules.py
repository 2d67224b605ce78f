"""The answer rules on hand-written texts, one per branch, and the code rules on programs in the sandbox."""

from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from env_construction.sandbox.tool_sandbox import ToolSandbox
from eval.graders.answer_rules import (
    as_number,
    choice_letter,
    final_expression,
    final_number,
    last_boxed,
    same_short_answer,
    short_answer,
    split_thinking,
    stated_answer,
)
from eval.graders.code_answers import extract_code, human_eval_problem, mbpp_problem, passes, program_of
from eval.graders.math_grader import same_expression


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("B", False, ("B", False)),
        ("<think>\nC?\n</think>\n\nB<|im_end|>", False, ("B", False)),
        ("C?</think>B", True, ("B", False)),
        ("C?</think>B", False, ("B", False)),
        ("<think>the answer is B", False, ("", True)),
        ("the answer is B", True, ("", True)),
        ("<think>a</think>B<think>c", False, ("", True)),
        ("<think>a</think>C<think>b</think>B", False, ("B", False)),
        ("<think></think>", False, ("", False)),
        ("    return 1\n<|im_end|><|endoftext|>", False, ("    return 1", False)),
    ],
)
def test_thinking_is_stripped_and_unclosed_thinking_is_no_answer(text: str, opened: bool, expected: tuple) -> None:
    assert split_thinking(text, opened) == expected


@given(st.text(), st.text())
def test_thinking_never_changes_the_graded_text(thought: str, said: str) -> None:
    thought, said = thought.replace("<", ""), said.replace("<", "")
    assert split_thinking(f"<think>{thought}</think>{said}") == split_thinking(said)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" (B)", "B"),
        ("B. Paris", "B"),
        ("B) Paris", "B"),
        ("**B**", "B"),
        ("B\nsince", "B"),
        ("The answer is (C).", "C"),
        ("The answer is: **C**", "C"),
        ("**Answer:** D", "D"),
        ("The correct option is B because A is wrong.", "B"),
        ("The answer is A. No: the answer is D.", "D"),
        ("So \\boxed{\\text{(C)}}. The answer is A.", "C"),
        ("I would say A.\n\nC", "C"),
        ("The answer is Banana.", None),
        ("A cat is an animal.", None),
        ("A, B and C fit.", None),
        ("\\boxed{E}", None),
        ("", None),
        ("b", "B"),
        ("d", "D"),
        ("(b)", "B"),
        ("b. 4", "B"),
        ("b) since it shines", "B"),
        ("**b**", "B"),
        ("Answer: d", "D"),
        ("answer: (a)", "A"),
        ("The answer is a.", "A"),
        ("the correct option is c because of light", "C"),
        ("\\boxed{b}", "B"),
        ("Option B is correct.", "B"),
        ("**Option D** is the correct answer", "D"),
        ("Therefore, B is the right answer.", "B"),
        ("Hence (C) must be the answer.", "C"),
        ("C is correct because A is wrong", "C"),
        ("Option A is not correct. Option C is correct.", "C"),
        ("The answer is A. No: B is the right answer.", "B"),
        ("It's B.", "B"),
        ("It is (c).", "C"),
        ("I'd go with C.", "C"),
        ("My answer is “C”", "C"),
        ("A. lens\nB. mirror\nC. prism\nD. candle\nIt's B.", "B"),
        ("a) lens\nb) mirror\n\nb", "B"),
        ("A) lens\nB) mirror\nC) prism\nD) candle", None),
        ("The answer is a lens", None),
        ("It's a lens.", None),
        ("a cat", None),
        ("e.g. this", None),
        ("The answer is not A.", None),
        ("B is the best-known option", None),
    ],
)
def test_letters(text: str, letter: str | None) -> None:
    assert choice_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("\\boxed{1}", "1"),
        ("\\boxed{1} and \\boxed{\\frac{a}{b}}", "\\frac{a}{b}"),
        ("\\fbox{ x }", "x"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed 5$ is it", "5"),
        ("\\boxed{2} then \\boxed{3", "2"),
        ("} \\boxed{4}", "4"),
        ("no box", None),
        ("\\boxed{never closed", None),
    ],
)
def test_boxes(text: str, inside: str | None) -> None:
    assert last_boxed(text) == inside


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2 + 3 = 5\n#### 1,234", 1234),
        ("#### $18.00", 18),
        ("#### -3", -3),
        ("\\boxed{7}, not 8", 7),
        ("\\boxed{x}; 9", 9),
        ("The answer is 5 apples out of 7.", 5),
        ("She pays $1,234.50 in 2 days... in all $1,234.50.", Fraction(2469, 2)),
        ("He has 20% left", 20),
        ("#### none, but 4", 4),
        ("The answer is 9{,}500.", 9500),
        ("so 11,\\! 111", 11111),
        ("#### \u22124", -4),
        ("The answer is 10 + 8 = 18.", 18),
        ("The answer is $10 + $8 = $18.", 18),
        ("The answer is 10 apples + 8 apples = 18 apples", 18),
        ("The answer is 18 = 10 + 8", 18),
        ("The answer is \\(10 -8 = 2\\).", 2),
        ("#### 10 + 8 = 18", 18),
        ("\\boxed{10+8=18}", 18),
        ("\\boxed{x = 18}", 18),
        ("The answer is 5 \\times 10^3 = 5000", 5000),
        ("18 (out of 100)", 18),
        ("The answer is 18 (out of 100).", 18),
        ("The total is (18)", 18),
        ("The answer is 3.5.", Fraction(7, 2)),
        ("The answer to the problem with 3 pens is 18.", 18),
        ("The answer is 1/2.", Fraction(1, 2)),
        ("#### 18\n\nQuestion: Bob has 3 pens.\n#### 5", 18),
        ("You owe -$5", -5),
        ("- 4 apples", 4),
        ("1e9999", None),
        ("no number", None),
        ("9" * 5000, None),
    ],
)
def test_final_numbers(text: str, number: Fraction | int | None) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-1,200.5", Fraction(-2401, 2)),
        ("\\frac{3}{4}", Fraction(3, 4)),
        ("\\dfrac34", Fraction(3, 4)),
        ("-\\frac{1}{2}", Fraction(-1, 2)),
        ("3/4", Fraction(3, 4)),
        ("50\\%", 50),
        ("12\\text{ cm}", 12),
        ("90^\\circ", 90),
        ("10{,}000", 10000),
        ("10\\,000", 10000),
        ("\u22124", -4),
        ("- 4", -4),
        ("1/0", None),
        ("x", None),
        ("(1,2)", None),
        ("", None),
    ],
)
def test_numbers(text: str, value: Fraction | int | None) -> None:
    assert as_number(text) == value


@given(st.fractions(min_value=-(10**12), max_value=10**12, max_denominator=1000))
def test_every_fraction_reads_as_itself(number: Fraction) -> None:
    sign = "-" if number < 0 else ""
    assert as_number(f"{sign}\\frac{{{abs(number.numerator)}}}{{{number.denominator}}}") == number


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("so $\\boxed{x^2}$", "x^2"),
        ("The answer is $\\frac{1}{2}$.", "\\frac{1}{2}"),
        ("Final answer: x = 3.", "x = 3"),
        ("then $y$ gives $$z$$", "z"),
        ("so \\(a\\) and \\[b\\]", "b"),
        ("nothing", None),
    ],
)
def test_expressions(text: str, expression: str | None) -> None:
    assert final_expression(text) == expression


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Step one.\nSo the answer is yes. Good.", "yes"),
        ("The answer is 3.5 now.", "3.5 now"),
        ("answer:\nThe answer is no", "no"),
        ("a\n\n**Yes**", "**Yes**"),
        ("\\boxed{\\text{Yes}}", "{Yes}"),
        ("", None),
    ],
)
def test_short_answers(text: str, answer: str | None) -> None:
    assert short_answer(text) == answer


def test_stated_answers_need_a_statement() -> None:
    assert stated_answer("Answers are hard.") is None
    assert stated_answer("Answer: ") is None


@pytest.mark.parametrize(
    ("target", "answer", "same"),
    [
        ("True", "true.", True),
        ("yes", "Yes, because", True),
        ("no", "not at all", False),
        ("No", "**No**", True),
        ("yes", "{Yes}", True),
        ("24", "24.0", True),
        ("24", "2024", False),
        ("apple pear", "apple, pear", True),
        ("apple pear", "pear apple", False),
        ("] > )", "]>).", True),
        ("] > )", "] )", False),
    ],
)
def test_equal_short_answers(target: str, answer: str, same: bool) -> None:
    assert same_short_answer(target, answer) is same


@pytest.mark.parametrize("junk", ["\\boxed{", "\\(", "\\[", "answer:\n", "$", "{", "answer is (", "\\frac{", "-"])
def test_long_junk_has_no_letter_and_no_number(junk: str) -> None:
    text = junk * (300_000 // len(junk))  # a quadratic-time rule would not finish here
    assert choice_letter(text) is None
    assert final_number(text) is None
    assert not same_expression("1", final_expression(text) or "")
    assert not same_short_answer("yes", short_answer(text) or "")


DOC = {
    "prompt": (
        'from typing import List\n\ndef helper(x):\n    return x\n\n\ndef half(x: int) -> int:\n    """Half of x."""\n'
    ),
    "entry_point": "half",
    "test": "def check(candidate):\n    assert candidate(4) == 2\n",
}


@pytest.fixture(scope="module")
def box() -> Iterator[ToolSandbox]:
    with ToolSandbox(workers=1, timeout_s=1) as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("```python\ndef half(x: List):\n    return helper(x) // 2\n```", (True, "ok")),
        ("    return x // 2", (True, "ok")),
        ("def half(x):\n    return x // 2", (True, "ok")),
        ("Here:\n```py\ndef half(x):\n    return x // 2", (True, "ok")),
        ("Here is the function:\n\ndef half(x):\n    return x // 2\n\nIt's done by floor division.", (True, "ok")),
        ("1. The code:\n   ```python\n   def half(x):\n       return x // 2\n   ```\n2. Done", (True, "ok")),
        (
            '```python\ndef half(x):\n    """Use:\n    ```\n    half(4)\n    ```\n    """\n    return x // 2\n```',
            (True, "ok"),
        ),
        ("```python\ndef half(x):\n    return x\n```", (False, "error")),
        ("```python\ndef half(x) return\n```", (False, "error")),
        ("```python\nraise SystemExit(0)\n```", (False, "error")),
        ("```python\ndef half(x):\n    while True: pass\n```", (False, "timeout")),
        ("```python\ndef half(x):\n    return open('/etc/hostname').read()\n```", (False, "error")),
        ("```python\ndef verdict_of_the_tests():\n    return 'ok'\n```", (False, "error")),
    ],
)
def test_programs_are_judged_by_the_benchmarks_tests_in_the_sandbox(
    box: ToolSandbox, text: str, outcome: tuple[bool, str]
) -> None:
    problem = human_eval_problem(DOC)
    code = extract_code(text, problem)
    assert code is not None
    assert passes(program_of(code, problem), problem, box) == outcome


def test_which_code_block_counts() -> None:
    problem = human_eval_problem(DOC)
    text = "```bash\nls\n```\n```python\nhalf(4)\n```\n```python\ndef half(x):\n    return 2\n```\n```\nprint(1)\n```\n"
    assert extract_code(text, problem) == "def half(x):\n    return 2\n"
    assert extract_code(text, problem, strict=True) == "half(4)\n"
    assert extract_code("def half(x): pass", problem, strict=True) is None
    assert extract_code("", problem) is None


def test_mbpp_problems_know_their_functions_and_tests() -> None:
    problem = mbpp_problem(
        {
            "code": "import math\r\ndef inner(n):\r\n    return n\r\ndef square(n):\r\n    return n * n",
            "test_list": ["assert square(2) == 4", "assert set([square(3)]) == {9}"],
            "test_setup_code": "import sys",
        }
    )
    assert problem.names == ("square",)
    assert problem.tests == "import sys\nassert square(2) == 4\nassert set([square(3)]) == {9}"
