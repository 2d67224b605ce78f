"""The verdict of the FTRL authors' own graders on the six general benchmarks: the column `published`.

| benchmark | their answer is correct if |
| --- | --- |
| MMLU | the first "ANSWER: X" (any case, X of A to D) is the gold letter |
| BBH, options | after the first "answer is ", the first capital after "(", else the first capital, is the gold's |
| BBH, free | after the first "answer is ", the first line (its first **bold** part), no period, any case, is the gold |
| GSM8K | the last number before any "Question:", read without commas, equals the gold |
| MATH | math-verify finds the first box, else the LaTeX that follows the word "answer", equal to the gold |
| HumanEval | the prompt, followed by the first fenced block (else by the entire text), passes `check` |
| MBPP | the code between [BEGIN] and [DONE], else in a fence, passes the asserts, run by `exec` inside a function |

Their flaws affect the scores and are kept. "1,234" is read as 234. A bare function body loses its indentation and
fails. A function in an MBPP program cannot see the program's helpers, its imports or itself, except for modules that
the authors' script imports. With thinking, the text after the first `</think>` is graded, or everything if there is
none.

Differences: programs run in the sandbox. A MATH answer that takes too long is wrong; the authors' grader raises.

Source: Code/evaluation/evaluation_general.py and Code/utils/parse_output.py of the repository bytedance/FTRL at
3ea979b, read for facts.
"""

from __future__ import annotations

import re
from itertools import product

from env_construction.sandbox.tool_sandbox import ToolSandbox
from eval.graders import code_answers
from eval.graders.math_grader import published_math
from reward.tool_calls import CALL_OPEN, THINK_CLOSE, parse_turn

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
# An MBPP function sees only what their script imports: exec inside a function gives the program a local namespace.
_MBPP_RUNNER = """
import argparse, contextlib, json, os, os.path as osp, re, signal, tempfile
from copy import deepcopy
def run(programs):
    exec(programs)
run({source!r})
"""


def graded_text(raw: str, thinking: bool) -> str:
    """The part of a raw turn that the authors grade."""
    turn = parse_turn(raw, "published")
    content = turn.text.partition(CALL_OPEN)[0].strip() if turn.calls else turn.text
    parts = content.split(THINK_CLOSE)
    return parts[1] if thinking and len(parts) > 1 else content


def published_correct(benchmark: str, gold: str, text: str) -> bool:
    """The verdict on `graded_text` for the four benchmarks without programs. KeyError for any other benchmark."""
    return {"mmlu": _mmlu, "bbh": _bbh, "gsm8k": _gsm8k, "math": published_math}[benchmark](gold, text)


def _mmlu(gold: str, text: str) -> bool:
    found = re.search(r"answer\s*:\s*([a-d])", text, re.IGNORECASE)
    return (found[1] if found else "").lower() == gold.lower()


def is_option(gold: str) -> bool:
    """Whether a BBH gold answer is one of the question's options, `(A)` to `(R)`."""
    return re.fullmatch(r"\([A-Z]\)", gold) is not None


def _bbh(gold: str, text: str) -> bool:
    if is_option(gold):
        return _bbh_option(text).lower() == _bbh_option(gold).lower()
    line = _behind_answer_is(text).split("\n")[0].strip()
    line = line[:-1].strip() if line.endswith(".") else line
    bold = re.search(r"\*\*(.*?)\*\*", line)
    return (bold[1] if bold else line).lower() == gold.lower()


def _behind_answer_is(text: str) -> str:
    parts = text.split("answer is ")
    return parts[1].strip() if len(parts) > 1 else text


def _bbh_option(text: str) -> str:
    answer = _behind_answer_is(text)
    found = re.search(r"\(([A-Z])", answer) or re.search(r"([A-Z])", answer)
    return found[1] if found else answer


def _gsm8k(gold: str, text: str) -> bool:
    numbers = _NUMBER.findall(text.partition("Question:")[0])
    if not numbers:
        return gold == "NULL"
    try:
        return bool(numbers[-1] == gold or abs(float(numbers[-1]) - int(gold)) < 1e-6)
    except (ValueError, OverflowError):
        return False


def published_human_eval(problem: code_answers.Problem, text: str, sandbox: ToolSandbox) -> bool:
    """Whether the authors' HumanEval grader accepts the text. Raises SandboxFault."""
    block = re.search(r"```\w*\n(.*?)```", text, re.DOTALL)
    completion = (block[1] if block else text).lstrip()
    return code_answers.passes(problem.prompt + completion, problem, sandbox)[0]


def published_mbpp(problem: code_answers.Problem, text: str, sandbox: ToolSandbox) -> bool:
    """Whether the authors' MBPP grader accepts the text. Raises SandboxFault."""
    source = f"{mbpp_code(text)}\n{problem.tests}"
    alone = code_answers.Problem((), "", "", "")
    return code_answers.passes(_MBPP_RUNNER.format(source=source), alone, sandbox)[0]


def _mbpp_patterns() -> list[str]:
    """The patterns that locate the code; the first match counts.

    In order: quoted between the marks, opened by a quote, or bare; fenced; with only one mark. The authors have one
    more pattern that can never match: the text before a fence.
    """
    marks = list(product((r"\[BEGIN\]", "BEGIN"), (r"\[DONE\]", "DONE")))
    ordered = [marks[0], marks[2], marks[1], marks[3]]
    patterns = [
        rf"{begin}\s*{opening}(.*){closing}\s*{done}"
        for opening, closing in (("'", "'"), ("'", ""), ("", ""))
        for begin, done in ordered
    ]
    patterns += [rf"```{name}\s*(.*)\s*{end}" for end in ("```", "$") for name in ("python", "")]
    return [*patterns, r"\[BEGIN\]\s*'(.*)", r"\[BEGIN\](.*)", r"'(.*)'\s*\[DONE\]"]


_MBPP_PATTERNS = [re.compile(pattern, re.DOTALL) for pattern in _mbpp_patterns()]


def mbpp_code(text: str) -> str:
    """The program that the authors extract from a text."""
    # without "DONE" in the text, patterns that contain it cannot match and are slow
    tried = (pattern for pattern in _MBPP_PATTERNS if "DONE" in text or "DONE" not in pattern.pattern)
    found = next(filter(None, (pattern.search(text) for pattern in tried)), None)
    code = (found[1] if found else text).split("```")[0]
    return re.split(r"'?\s*\[?DONE\]?", code)[0].replace("\\_", "_").strip()
