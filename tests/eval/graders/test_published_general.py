"""The authors' graders, reproduced from their code: verdicts on synthetic replies, including their flaws."""

from collections.abc import Iterator

import pytest

from env_construction.sandbox.tool_sandbox import ToolSandbox
from eval.graders.code_answers import human_eval_problem, mbpp_problem
from eval.graders.published_general import (
    graded_text,
    mbpp_code,
    published_correct,
    published_human_eval,
    published_mbpp,
)


@pytest.mark.parametrize(
    ("benchmark", "gold", "text", "correct"),
    [
        ("mmlu", "B", "ANSWER: B", True),
        ("mmlu", "B", "so the answer : b, of course", True),
        ("mmlu", "B", "ANSWER: A\nANSWER: B", False),  # the first counts
        ("mmlu", "B", "ANSWER: Because", True),  # any letter after the colon
        ("mmlu", "B", "The answer is (B).", False),
        ("mmlu", "B", "B", False),
        ("bbh", "(B)", "So the answer is (B).", True),
        ("bbh", "(B)", "the answer is b", True),  # no capital: the entire text is compared, ignoring case
        ("bbh", "(B)", "the answer is b.", False),
        ("bbh", "(B)", "(A) fails. So the answer is (B).", True),
        ("bbh", "(B)", "The answer is (A). No, the answer is (B).", False),
        ("bbh", "(B)", "the answer is Blue", True),  # its first capital
        ("bbh", "(I)", "I think (B)", False),
        ("bbh", "(I)", "I think so", True),
        ("bbh", "False", "So the answer is false.", True),
        ("bbh", "False", "So the answer is **False**, clearly.", True),
        ("bbh", "False", "False", True),
        ("bbh", "False", "So the answer is False because of this.", False),
        ("bbh", "24", "the answer is 24.0", False),
        ("gsm8k", "18", "10 + 8 = 18", True),
        ("gsm8k", "18", "It is 18.0", True),
        ("gsm8k", "18", "18 of 100", False),
        ("gsm8k", "18", "18. Question: 5", True),
        ("gsm8k", "1234", "1,234", False),
        ("gsm8k", "234", "1,234", True),
        ("gsm8k", "-3", "-3", True),
        ("gsm8k", "18", "none", False),
        ("math", "\\frac{1}{2}", "so \\boxed{0.5}", True),
        ("math", "\\frac{1}{2}", "The answer is 0.5", False),
    ],
)
def test_verdicts(benchmark: str, gold: str, text: str, correct: bool) -> None:
    assert published_correct(benchmark, gold, text) is correct


def test_thinking_is_graded_unless_thinking_was_asked_for() -> None:
    raw = "<think>ANSWER: A</think>ANSWER: B<|im_end|>"
    assert graded_text(raw, thinking=True) == "ANSWER: B"
    assert graded_text(raw, thinking=False) == "<think>ANSWER: A</think>ANSWER: B"
    assert graded_text("<think>never closed", thinking=True) == "<think>never closed"
    assert graded_text("<think>a</think>b</think>c", thinking=True) == "b"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[BEGIN]\n 'x = 1'\n[DONE]", "x = 1"),
        ("[BEGIN]\nx = 1\n[DONE] and more", "x = 1"),
        ("BEGIN x = 1 DONE", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nGood.", "x = 1"),
        ("```python\nx = 1\n```\n```python\nx = 2\n```", "x = 1"),
        ("```python\nx = 1", "x = 1"),
        ("[BEGIN] x\\_1 = 1", "x_1 = 1"),
        ("x = 1", "x = 1"),
        ("", ""),
    ],
)
def test_which_code_of_an_mbpp_reply_counts(text: str, code: str) -> None:
    assert mbpp_code(text) == code


@pytest.fixture(scope="module")
def box() -> Iterator[ToolSandbox]:
    with ToolSandbox(workers=1, timeout_s=2) as opened:
        yield opened


@pytest.mark.parametrize(
    ("program", "correct"),
    [
        ("def f(x):\n    return x + 1", True),
        ("def f(x):\n    return x + 2", False),
        (
            "import re\ndef f(x):\n    return len(re.sub('a', '', 'a')) + x + 1",
            True,
        ),  # their script imports re, not math
        ("import math\ndef f(x):\n    return math.floor(x) + 1", False),
        ("def g(x):\n    return x\ndef f(x):\n    return g(x) + 1", False),
        ("def f(n):\n    return 1 if n == 0 else f(n - 1) + 1", False),
        ("raise SystemExit", False),
        ("while True: pass", False),
    ],
)
def test_mbpp_programs_run_inside_a_function(box: ToolSandbox, program: str, correct: bool) -> None:
    problem = mbpp_problem({"test_list": ["assert f(0) == 1", "assert f(1) == 2"]})
    assert published_mbpp(problem, f"```python\n{program}\n```", box) is correct


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("```python\ndef f(x):\n    return x + 1\n```", True),
        ("def f(x):\n    return x + 1", True),
        ("    return x + 1", False),  # its indentation is stripped
        ("```python\n    return x + 1\n```", False),
        ("```python\nprint(1)\n```\n```python\ndef f(x):\n    return x + 1\n```", False),
        ("```python\ndef f(x):\n    return x + 1", False),  # a fence that is never closed
    ],
)
def test_human_eval_programs(box: ToolSandbox, text: str, correct: bool) -> None:
    doc = {
        "prompt": 'def f(x):\n    """One more."""\n',
        "entry_point": "f",
        "test": "def check(c):\n    assert c(1) == 2",
    }
    assert published_human_eval(human_eval_problem(doc), text, box) is correct
