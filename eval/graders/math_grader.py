"""MATH's grader: whether two LaTeX expressions are equal, by `math-verify`.

The FTRL authors and lm-eval's minerva_math use the same grader. It runs in a separate process
(eval/graders/line_process.py), because its own time limit is a signal: that works only in the main thread and does not
always stop sympy. An answer that takes longer than SECONDS or exhausts the process's memory is wrong.

Typography is normalized first (env_construction/environment/numbers.py), because math-verify reads `10\\,000` as a
product. Its notion of equality is kept; for example `52_8` equals `52`, `50\\%` equals `50`, `x = 3` equals `3`.

Example (one request by hand):
    echo '{"op": "same", "gold": "\\\\frac{1}{2}", "answer": "0.5"}' | python -m eval.graders.math_grader

Source: PyPI math-verify 0.9.0; the authors' settings: `_evaluate_math` of Code/evaluation/evaluation_general.py,
repository bytedance/FTRL.
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
"""Maximum characters of an expression; no answer of MATH has more than 160."""


def same_expression(gold: str, answer: str) -> bool:
    """Whether two LaTeX (or plain) expressions are equal. Raises BadInput if math-verify is not installed."""
    if max(len(gold), len(answer)) > LONGEST:
        return False
    return _asked({"op": "same", "gold": plain_typography(gold), "answer": plain_typography(answer)})


def published_math(gold: str, response: str) -> bool:
    """The FTRL authors' verdict on a complete response. Raises BadInput if math-verify is not installed.

    It uses the first box, else the LaTeX after the word "answer".
    """
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
            raise BadInput(
                f"MATH is graded with math-verify, but the module {package} is not installed; run `bash setup.sh`"
            )
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
    answer({"op": "same", "gold": "1", "answer": "1"})  # imports everything before the first request is timed
    serve(answer, MEMORY_BYTES)
