"""MATH's grader: are two LaTeX expressions equal? By `math-verify`, the grader of the FTRL authors and of lm-eval's minerva_math.

It runs in a process of its own (eval/graders/line_process.py): its own time limit is a signal, which works in no other thread than the first and does
not stop sympy everywhere. An answer that costs more than SECONDS or takes the process's memory is no right answer.

Typography comes off first (env_construction/environment/numbers.py), as math-verify reads `10\\,000` as a product. What it takes for equal is kept:
among others `52_8` and `52`, `50\\%` and `50`, `x = 3` and `3`.

Example (one request by hand):
    echo '{"op": "same", "gold": "\\\\frac{1}{2}", "answer": "0.5"}' | python -m eval.graders.math_grader

Source: PyPI math-verify 0.9.0; the authors' settings: `_evaluate_math` of Code/evaluation/evaluation_general.py, repository bytedance/FTRL.
"""

from __future__ import annotations

import atexit
import importlib.util
import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from env_construction.environment.jsonl import BadInput
from env_construction.environment.numbers import plain_typography
from eval.graders.line_process import LineProcess, NoAnswer, serve

SECONDS = 20.0
MEMORY_BYTES = 4 << 30
LONGEST = 2_000
"""Characters of one expression; no answer of MATH has more than 160."""


def same_expression(gold: str, answer: str) -> bool:
    """Are two LaTeX expressions (or plain ones) equal? Raises BadInput if math-verify is not installed."""
    if max(len(gold), len(answer)) > LONGEST:
        return False
    return _asked({"op": "same", "gold": plain_typography(gold), "answer": plain_typography(answer)})


def published_math(gold: str, response: str) -> bool:
    """The FTRL authors' verdict on a whole response: its first box, else the LaTeX behind the word "answer". Raises BadInput."""
    return _asked({"op": "published", "gold": gold, "answer": response})


def _asked(message: dict[str, str]) -> bool:
    try:
        return bool(_grader().request(message, SECONDS).get("value"))
    except NoAnswer:
        return False


@cache
def _grader() -> LineProcess:
    for package in ("math_verify", "latex2sympy2_extended", "antlr4"):
        if importlib.util.find_spec(package) is None:
            raise BadInput(f"MATH is graded with math-verify: the module {package} is not installed; run bash setup.sh")
    process = LineProcess("eval.graders.math_grader")
    atexit.register(process.close)
    return process


def answer(request: Mapping[str, Any]) -> bool:
    """The verdict on a request, in the grader's own process."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    both = [LatexExtractionConfig(), ExprExtractionConfig()]
    if request["op"] == "same":
        gold, said = (parse(f"${request[key]}$", both, parsing_timeout=None) for key in ("gold", "answer"))
    else:
        gold = parse(f"${request['gold']}$", both, extraction_mode="first_match", parsing_timeout=None)
        boxes_first = LatexExtractionConfig(
            boxed_match_priority=0,
            try_extract_without_anchor=False,
            normalization_config=NormalizationConfig(
                basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all", equations=True
            ),
        )
        said = parse(request["answer"], [boxes_first], extraction_mode="first_match", parsing_timeout=None)
    return bool(gold) and bool(verify(gold, said, timeout_seconds=None))


if __name__ == "__main__":
    answer({"op": "same", "gold": "1", "answer": "1"})  # the imports, before the first request's time runs
    serve(answer, MEMORY_BYTES)
