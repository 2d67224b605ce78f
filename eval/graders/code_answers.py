"""Grade model-written programs (HumanEval, MBPP): extract the code and run it with the benchmark's tests.

The grader never executes a program itself. `env_construction/sandbox/tool_sandbox.py` runs it in a process without
files, network or gold answers of other problems, and kills it at the time limit. Covered: loops, memory, `exit`, output
floods, `input`, deleted files, rebound builtins. NOT covered: a program that searches its own process for the tests in
order to pass them. Programs have only the standard library.

Which code counts: `env_construction/replies/reply_text.py` decides (the last fenced block that parses and defines a
required function, then unfenced code after a sentence, then other blocks), else the entire text. The strict rule uses
only the first block; without a block there is no code.

Source: the benchmarks' own graders (HumanEval: the prompt, the completion and `check(entry_point)` as one program;
MBPP: the code, then its asserts).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from env_construction.replies.reply_text import python_blocks, python_code
from env_construction.sandbox.tool_sandbox import SandboxFault, ToolCall, ToolSandbox

VERDICT = "verdict_of_the_tests"


@dataclass(frozen=True)
class Problem:
    """A programming problem.

    `names`: functions that the tests call. `prompt`: the beginning that a bare function body completes. `preamble`: the
    part of the prompt that a complete program still needs (imports, helper functions). `tests` run after the program.
    """

    names: tuple[str, ...]
    prompt: str
    preamble: str
    tests: str


def human_eval_problem(doc: Mapping[str, Any]) -> Problem:
    """From a HumanEval record: `prompt` (signature and docstring), `entry_point`, `test` (defines `check`)."""
    prompt, name = str(doc["prompt"]), str(doc["entry_point"])
    definition = re.search(rf"^[ \t]*def\s+{re.escape(name)}\b", prompt, re.MULTILINE)
    preamble = prompt[: definition.start()] if definition else ""
    return Problem((name,), prompt, preamble, f"{doc['test']}\ncheck({name})")


def mbpp_problem(doc: Mapping[str, Any]) -> Problem:
    """From an MBPP record: `test_list` (asserts) and `test_setup_code`.

    The reference (`code`) shows which functions are tested. Without it, any function that the asserts call may be
    tested.
    """
    tests = "\n".join([str(doc.get("test_setup_code") or ""), *map(str, doc["test_list"])])
    defined = re.findall(r"^def\s+(\w+)", str(doc.get("code") or ""), re.MULTILINE)
    called = tuple(dict.fromkeys(re.findall(r"\b([A-Za-z_]\w*)\s*\(", tests)))
    if doc.get("code"):
        called = tuple(name for name in dict.fromkeys(defined) if name in called)
    return Problem(called, "", "", tests)


def extract_code(text: str, problem: Problem, strict: bool = False) -> str | None:
    """The code in a text; None if there is none."""
    if strict:
        return next((block for block in python_blocks(text) if block.strip()), None)
    code = python_code(text, problem.names) or text
    return code if code.strip() else None


def _defines(code: str, names: tuple[str, ...]) -> bool:
    return any(re.search(rf"^(?:async\s+)?def\s+{re.escape(name)}\b", code, re.MULTILINE) for name in names)


def program_of(code: str, problem: Problem) -> str:
    """The program to test.

    If the code defines the function, it follows the prompt's imports. Otherwise it completes the prompt.
    """
    if not problem.prompt or _defines(code, problem.names):
        return f"{problem.preamble}\n{code}" if problem.preamble.strip() else code
    return problem.prompt + code


def passes(program: str, problem: Problem, sandbox: ToolSandbox) -> tuple[bool, str]:
    """`(whether all tests pass, what happened: "ok", "error", "timeout", ...)`.

    The program returns a random word after the tests. It cannot know the word in advance, so the word proves that the
    tests were reached. Raises SandboxFault for a failure that the program did not cause.
    """
    word = secrets.token_hex(8)
    source = f"{program}\n\n{problem.tests}\n\ndef {VERDICT}():\n    return {word!r}\n"
    [result] = sandbox.run({VERDICT: source}, [ToolCall(VERDICT, {})])
    if result.status == "fault":
        raise SandboxFault(result.output)
    return result.ok and result.output == word, result.status if result.status != "ok" else "ok"
