"""Grade the programs that a model writes (HumanEval, MBPP): find the code in its text, run it with the benchmark's tests, in the sandbox.

The grader never executes a program itself: `env_construction/tool_sandbox.py` does, in a process without files, network or gold answers of
other problems, which is killed when its time is up. Covered: loops, memory, `exit`, output floods, `input`, deleted files, rebound builtins.
NOT covered: a program that searches its own process for the tests and passes them on purpose. Programs see the standard library only.

Which code counts: of the text's fenced blocks the last that defines a wanted function, else the last one, else the whole text.
Strictly: the first block, and none means no code.

Source: the benchmarks' own graders (HumanEval: the prompt, the completion and `check(entry_point)` as one program; MBPP: the code, then its asserts).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from env_construction.tool_sandbox import SandboxFault, ToolCall, ToolSandbox

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_PYTHON = ("", "python", "py", "python3")
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


def code_blocks(text: str) -> list[str]:
    """The fenced blocks of a text that are, or may be, Python; the last one may lack its closing fence."""
    return [code for language, code in _FENCE.findall(text) if language.lower() in _PYTHON]


def extract_code(text: str, problem: Problem, strict: bool = False) -> str | None:
    """The code that a text hands in; None if there is none."""
    blocks = [block for block in code_blocks(text) if block.strip()]
    if strict:
        return blocks[0] if blocks else None
    wanted = [block for block in blocks if _defines(block, problem.names)]
    chosen = (wanted or blocks or [text])[-1]
    return chosen if chosen.strip() else None


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
