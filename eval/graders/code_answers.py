"""Grade the programs that a model writes (HumanEval, MBPP): find the code in its text, run it with the benchmark's tests, in the sandbox.

The grader never executes a program itself: `env_construction/sandbox/tool_sandbox.py` does, in a process without files, network or gold answers of
other problems, which is killed when its time is up. Covered: loops, memory, `exit`, output floods, `input`, deleted files, rebound builtins.
NOT covered: a program that searches its own process for the tests and passes them on purpose. Programs see the standard library only.

Which code counts: `env_construction/replies/reply_text.py` says (the last fenced block that parses and defines a wanted function, then unfenced
code behind a sentence, then other blocks), else the whole text. Strictly: the first block, and none means no code.

Source: the benchmarks' own graders (HumanEval: the prompt, the completion and `check(entry_point)` as one program; MBPP: the code, then its asserts).
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
    """A programming problem. `names`: functions that the tests call. `prompt`: the beginning that a bare body completes.

    `preamble`: what of the prompt a whole program still needs (imports, helper functions); `tests` run behind the program.
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
    """From an MBPP record: `test_list` (asserts) and `test_setup_code`. Which functions they test is read from the reference's own.

    Without a reference (`code`), every function that the asserts call may be meant.
    """
    tests = "\n".join([str(doc.get("test_setup_code") or ""), *map(str, doc["test_list"])])
    defined = re.findall(r"^def\s+(\w+)", str(doc.get("code") or ""), re.MULTILINE)
    called = tuple(dict.fromkeys(re.findall(r"\b([A-Za-z_]\w*)\s*\(", tests)))
    if doc.get("code"):
        called = tuple(name for name in dict.fromkeys(defined) if name in called)
    return Problem(called, "", "", tests)


def extract_code(text: str, problem: Problem, strict: bool = False) -> str | None:
    """The code that a text hands in; None if there is none."""
    if strict:
        return next((block for block in python_blocks(text) if block.strip()), None)
    code = python_code(text, problem.names) or text
    return code if code.strip() else None


def _defines(code: str, names: tuple[str, ...]) -> bool:
    return any(re.search(rf"^(?:async\s+)?def\s+{re.escape(name)}\b", code, re.MULTILINE) for name in names)


def program_of(code: str, problem: Problem) -> str:
    """The program to test: code that defines the function, behind the prompt's imports; else the prompt completed by the code."""
    if not problem.prompt or _defines(code, problem.names):
        return f"{problem.preamble}\n{code}" if problem.preamble.strip() else code
    return problem.prompt + code


def passes(program: str, problem: Problem, sandbox: ToolSandbox) -> tuple[bool, str]:
    """`(do all tests pass, what happened: "ok", "error", "timeout", ...)`. Raises SandboxFault for a failure that is not the program's.

    That the tests were reached is told by a word that the program cannot know when it is written.
    """
    word = secrets.token_hex(8)
    source = f"{program}\n\n{problem.tests}\n\ndef {VERDICT}():\n    return {word!r}\n"
    [result] = sandbox.run({VERDICT: source}, [ToolCall(VERDICT, {})])
    if result.status == "fault":
        raise SandboxFault(result.output)
    return result.ok and result.output == word, result.status if result.status != "ok" else "ok"
