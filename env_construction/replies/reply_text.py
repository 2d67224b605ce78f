"""The one reader of what models wrap around a reply: thinking, Markdown fences, sentences before and after.

All that read a model's text use it: the LLM author, the strict reading of turns, the graders of answers and programs.

- Thinking: `<think>...</think>`. A `</think>` that nothing opened closes thinking that the prompt opened: all before it
  is thinking. Thinking that nothing closes runs to the end.
- JSON: objects delimit themselves, so fences play no part, and a fence or a tag inside a JSON string is text.
- Python: fenced blocks as CommonMark has them, and as models write them: behind a sentence, inside a list, indented,
  unclosed, closed at the end of a code line. A block ends at the first fence where its code parses, so that a fence in
  a docstring is text. Without a block that has the code, the lines between the sentences count.

Of several candidates the last complete one counts: models draft, then correct, and show what they settled on last.
A Markdown parser is not used: it ends a block at a fence in a docstring and sees no fence behind a sentence.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
Span = tuple[int, int]

_THINK_TAG = re.compile("<think>|</think>")
_THINK_TAG_OR_OBJECT = re.compile(r"<think>|</think>|\{")
_CONTAINER = re.compile(r"[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*")
_OPENING = re.compile(r"(?P<before>[^`~]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`]*)")
_CLOSING = re.compile(r"(?P<code>.*?)(?P<fence>`{3,}|~{3,})[ \t]*")
_CODE_BEGINS = re.compile(
    r"(?P<indent>[ \t]*)"
    r"(?:@\w|(?:async[ \t]+)?def[ \t]|class[ \t]|import[ \t]|from[ \t]+\S+[ \t]+import[ \t]|\w+[ \t]*(?::[^=]*)?=(?!=))"
)
_PYTHON = ("", "py", "ipython")
_MOST_TRIES = 24
"""Ends of a block, beginnings and ends of unfenced code that are tried: babble full of fences must not take minutes."""


def thinking_spans(
    text: str,
    opened: bool = False,
    tag: re.Pattern[str] = _THINK_TAG,
    skip: Callable[[re.Match[str]], int] | None = None,
) -> list[Span]:
    """The spans of thinking, tags included, in order. `opened`: the prompt ended in `<think>`.

    `tag` may find other things too, in which thinking tags are text: `skip` says where each of those ends.
    """
    spans: list[Span] = []
    position = 0
    if opened:
        position = _end_of_thinking(text, 0)
        spans.append((0, position))
    while found := tag.search(text, position):
        start, position = found.span()
        if found[0] == THINK_CLOSE:
            spans = [(0, position)]
        elif found[0] == THINK_OPEN:
            position = _end_of_thinking(text, position)
            spans.append((start, position))
        elif skip is not None:
            position = skip(found)
    return spans


def _end_of_thinking(text: str, start: int) -> int:
    close = text.find(THINK_CLOSE, start)
    return len(text) if close < 0 else close + len(THINK_CLOSE)


def outside(text: str, spans: Sequence[Span]) -> str:
    """The text without `spans` (in order, not overlapping), stripped."""
    kept, position = [], 0
    for begin, end in spans:
        kept.append(text[position:begin])
        position = end
    return "".join([*kept, text[position:]]).strip()


def said_after_thinking(text: str, opened: bool = False) -> tuple[str, bool]:
    """`(what stands behind the last thinking, whether thinking was left unclosed)`; if it was, the first is empty."""
    spans = thinking_spans(text, opened)
    end = spans[-1][1] if spans else 0
    if spans and not text[:end].endswith(THINK_CLOSE):
        return "", True
    return text[end:], False


def without_thinking(text: str) -> str:
    """All that stands outside of thinking. A tag inside a whole JSON object is text."""
    if THINK_OPEN not in text and THINK_CLOSE not in text:
        return text.strip()
    return outside(text, thinking_spans(text, tag=_THINK_TAG_OR_OBJECT, skip=lambda found: _object_at(text, found)[1]))


def json_objects(text: str) -> list[dict[str, Any] | ValueError]:
    """The outermost JSON objects of a text, in order; for what begins like one and cannot be read, the error.

    Raw line breaks inside strings are read, as models write them. NaN and Infinity are errors: they are no JSON.
    """
    found: list[dict[str, Any] | ValueError] = []
    position = 0
    while opening := re.compile(r"\{").search(text, position):
        value, position = _object_at(text, opening)
        # a brace in a sentence is no object that somebody tried to write
        if isinstance(value, dict) or re.compile(r'\{\s*(?:"|\Z)').match(text, opening.start()):
            found.append(value)
    return found


def _object_at(text: str, opening: re.Match[str]) -> tuple[dict[str, Any] | ValueError, int]:
    """`(the object or what is wrong with it, where to go on)`. A broken object is read no further than to its fault.

    Its fault is where strict JSON ends: a string that is not closed would else run into the next object.
    """
    constants: list[str] = []
    start = opening.start()
    try:
        value, end = json.JSONDecoder(strict=False, parse_constant=constants.append).raw_decode(text, start)
    except json.JSONDecodeError as error:
        try:
            json.JSONDecoder().raw_decode(text, start)
        except json.JSONDecodeError as strict:
            return error, max(strict.pos, start + 1)
        raise AssertionError from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, nesting without end
        return ValueError(str(error)), len(text)
    return (ValueError(f"{constants[0]} is no JSON number") if constants else value), end


@dataclass(frozen=True)
class FencedBlock:
    """A fenced block. `language` is lower case, empty without one; `body` has the fence's own indentation taken off."""

    language: str
    body: str


def fenced_blocks(text: str, complete: Callable[[str], bool] = lambda body: True) -> list[FencedBlock]:
    """The fenced blocks of a text, in order; the last one may lack its closing fence.

    A block ends at the first fence where its body is `complete`; if it is so at none, at the first closing fence.
    """
    lines = re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff"))
    blocks: list[FencedBlock] = []
    number = 0
    while number < len(lines):
        opening = _opening(lines[number])
        number += 1
        if opening is None:
            continue
        ends = _ends_of_block(lines, number, opening)
        bodies = (_body([*lines[number:end], *rest], opening["before"]) for end, rest, _ in ends)
        chosen = next((place for place, body in enumerate(bodies) if complete(body)), 0)
        language = re.match(r"\W*(\w*)", opening["info"])
        end, rest, following = ends[chosen]
        body = _body([*lines[number:end], *rest], opening["before"])
        blocks.append(FencedBlock(language[1].lower() if language else "", body))
        number = following
    return blocks


def _opening(line: str) -> re.Match[str] | None:
    """The fence that a line opens. Behind a sentence, at most a language may follow it."""
    found = _OPENING.fullmatch(line) if "```" in line or "~~~" in line else None
    if found and len(found["info"].split()) > 1 and not _CONTAINER.fullmatch(found["before"]):
        return None
    return found


def _ends_of_block(lines: list[str], start: int, opening: re.Match[str]) -> list[tuple[int, list[str], int]]:
    """`(line that ends the block, code before the fence on that line, line to go on at)`, the likeliest first."""
    likely: list[tuple[int, list[str], int]] = []
    doubtful: list[tuple[int, list[str], int]] = []
    for number in range(start, len(lines)):
        if len(likely) == _MOST_TRIES:
            break
        if opening["fence"][:3] not in lines[number]:
            continue
        closing = _CLOSING.fullmatch(lines[number])
        if closing and closing["fence"].startswith(opening["fence"]):
            if closing["code"].strip(" \t>"):
                doubtful.append((number, [closing["code"]], number + 1))
            else:
                likely.append((number, [], number + 1))
        elif (other := _opening(lines[number])) and other["info"]:
            likely.append((number, [], number))  # the closing fence is missing
    return [*likely, *doubtful, (len(lines), [], len(lines))][:_MOST_TRIES]


def _body(lines: list[str], before: str) -> str:
    """The lines of a block without what their container puts before them: quote marks, the fence's indentation."""
    for _ in range(before.count(">") if _CONTAINER.fullmatch(before) else 0):
        lines = [re.sub(r"^[ \t]*> ?", "", line) for line in lines]
    indent = len(before.rpartition(">")[2]) if _CONTAINER.fullmatch(before) else 0
    shared = min((len(line) - len(line.lstrip(" \t")) for line in lines if line.strip()), default=0)
    return "".join(f"{line[min(indent, shared) :]}\n" for line in lines)


def python_blocks(text: str) -> list[str]:
    """The fenced blocks that are, or may be, Python; those of a fenced page too."""
    found: list[str] = []
    for item in fenced_blocks(text, _parses):
        if item.language in _PYTHON or item.language.startswith("python"):
            found.append(item.body)
        elif item.language in ("markdown", "md"):
            found += python_blocks(item.body)
    return found


def python_code(text: str, names: Sequence[str] = ()) -> str | None:
    """The program that a reply hands in; `names` are the functions that are wanted (none named: any will do).

    In this order: the last fenced block that parses and defines one; the unfenced lines that do; the last block that
    defines one and does not parse; the last block that parses; the last block. None without any.
    """
    blocks = [block for block in python_blocks(text) if block.strip()]
    if whole := [block for block in blocks if _defines(block, names)]:
        return whole[-1]
    if (unfenced := _unfenced_code(text, names)) is not None:
        return unfenced
    wanted = "|".join(map(re.escape, names)) or r"\w+"
    broken = [block for block in blocks if re.search(rf"^(?:async\s+)?def\s+(?:{wanted})\b", block, re.MULTILINE)]
    left = broken or [block for block in blocks if _parses(block)] or blocks
    return left[-1] if left else None


def _tree(code: str) -> ast.Module | SyntaxError | None:
    try:
        return ast.parse(code)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError):
        return None


def _parses(code: str) -> bool:
    """Whether code is Python: a module, or the indented body of a function."""
    return any(isinstance(_tree(text), ast.Module) for text in (code, f"if 1:\n{code}"))


def _defines(code: str, names: Sequence[str]) -> bool:
    tree = _tree(code)
    defined = [
        node.name
        for node in (tree.body if isinstance(tree, ast.Module) else ())
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return bool(defined) if not names else not set(names).isdisjoint(defined)


def _unfenced_code(text: str, names: Sequence[str]) -> str | None:
    """The lines from one that can begin a module up to the last that parses with it, if they define a wanted
    function.
    """
    lines = re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff"))
    beginnings = [(number, found["indent"]) for number, line in enumerate(lines) if (found := _CODE_BEGINS.match(line))]
    read_to = 0
    for start, indent in beginnings[:_MOST_TRIES]:
        if start < read_to:
            continue  # a part of what has been parsed, such as a method
        code = []
        for line in lines[start:]:
            if line.strip() and not line.startswith(indent):
                break
            code.append(line.removeprefix(indent))
        for _ in range(_MOST_TRIES):
            source = "\n".join([*code, ""])
            tree = _tree(source)
            if isinstance(tree, ast.Module):
                if _defines(source, names):
                    return "\n".join([*code[: _last_statement(tree)], ""])
                read_to = start + len(code)
                break
            if tree is None or not tree.lineno or not 1 < tree.lineno <= len(code):
                break
            del code[tree.lineno - 1 :]
    return None


def _last_statement(tree: ast.Module) -> int | None:
    """The line on which a module ends, words behind it that happen to be Python (`Done`, `Note: simple`) left out."""

    def does_nothing(node: ast.stmt) -> bool:
        if isinstance(node, ast.AnnAssign):
            return node.value is None
        return isinstance(node, ast.Expr) and not any(isinstance(inner, ast.Call) for inner in ast.walk(node))

    body = list(tree.body)
    while does_nothing(body[-1]):
        body.pop()
    return body[-1].end_lineno
