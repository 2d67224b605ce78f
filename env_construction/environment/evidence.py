"""Does an output that holds a sub-answer show that the tool found it? What `strict` matching asks beyond the match
itself.

Three kinds of outputs hold an answer that the tool did not find:
- an error that the tool *returned*: `{"error": "no data for Oslo"}`, "Error: ...", such an object inside another one or
  inside a text. An error beside real data (`{"value": 4, "error": null}`) takes only its own text away;
- an echo: the answer stands in the call's arguments. It counts only where the tool chose it among several values of one
  argument (`max(28, 16)`, a list of names) or of two numbers and left another one out, or took it out of a longer text
  ("Chamomile" of "Chamomile Tea"). A policy that knows an answer can still have it computed (`8501 + 1`);
- a list of many values of the answer's kind (more than MOST_VALUES besides what answers a sub-answer): numbers and days
  are counted one by one, texts by leaf and by item of a list written as text.

Read only after a match was found, so that its cost falls on few outputs.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from env_construction.environment.answer_tokens import Token, holds, parts_of, tokens_of

MOST_VALUES = 20
_ERROR_KEYS = re.compile(r"err|errors?|exceptions?|(error|exception)[_ ]?(message|msg|text|detail|details|type)", re.I)
_STATUS_KEYS = {"status", "state", "result", "success", "ok", "type"}
_TEXT_KEYS = {"message", "msg", "detail", "details", "reason", "description", "info"}
_EMPTY_KEYS = {"code", "status_code", "statuscode", "data", "result", "results", "value", "values", "timestamp"}
_FAILED = {"error", "err", "fail", "failed", "failure", "exception", "not_found", "not found"}
_GERUNDS = "process|fetch|retriev|call|evaluat|execut|pars|read|load|look|find|search|calculat|comput|convert|access|perform|generat|query"
_ERROR_TEXT = re.compile(
    rf"\W*(?:(?:an?|the)?\s*(?:\w+\s+)?(?:error|exception)\s+(?:has\s+|was\s+)?(?:occur+ed|occurs|encountered|happened|raised)\b"
    rf"|(?:errors?|exceptions?)\b\s*(?:$|[:;,.!(\[\u2013\u2014]|-\s|\d|(?:in|while|when|during|for|from|with|on|no|not|unable|could|cannot"
    rf"|failed|invalid|unknown|missing|code|message|(?:{_GERUNDS})\w*ing)\b)"
    rf"|\w+(?:Error|Exception)\b\s*[:(]|traceback \(most recent call last\))",
    re.IGNORECASE,
)
_MOST_NESTED = 1000
_ITEM = re.compile(r"[,;|\n]")


def is_error_text(text: str) -> bool:
    """Does a text begin as an error report does: "Error: ...", "An error occurred", "ValueError: ..."?"""
    return bool(_ERROR_TEXT.match(text))


def _is_error_object(value: Mapping[str, Any]) -> bool:
    """An object whose only or leading key names an error, or whose other keys only describe a failure."""
    filled = {str(key): inner for key, inner in value.items()}
    named = [key for key, inner in filled.items() if _ERROR_KEYS.fullmatch(key) and _says_error(inner)]
    if named and (len(filled) == 1 or next(iter(filled)) in named):
        return isinstance(filled[named[0]], str | dict | list | bool) or len(filled) == 1
    flags = [key for key, inner in filled.items() if key.lower() in _STATUS_KEYS and _says_failure(key, inner)]
    if not named and not flags:
        return False
    rest = [key for key in filled if key not in named and key not in flags]
    texts = [key for key in rest if key.lower() in _TEXT_KEYS]
    bare = all(
        key.lower() in _TEXT_KEYS
        or (key.lower() in _EMPTY_KEYS and (not filled[key] or key.lower().endswith("code")))
        or key.lower() in _STATUS_KEYS
        for key in rest
    )
    return bare and bool(named or texts)


def _says_error(value: Any) -> bool:
    return value is True or (isinstance(value, str | list | dict) and bool(value)) or type(value) in (int, float)


def _says_failure(key: str, value: Any) -> bool:
    if key.lower() in ("success", "ok"):
        return value is False or (isinstance(value, str) and value.lower() == "false")
    return isinstance(value, str) and value.strip().lower() in _FAILED


def _parsed(text: str) -> Any:
    """The object, array or text that a text holds as JSON or as Python writes it; else the text itself."""
    stripped = text.strip()
    if stripped[:1] not in ("{", "[", "(", '"'):
        return text
    try:
        return json.loads(stripped)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(stripped)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text
    return list(value) if isinstance(value, tuple | set) else value


def found_leaves(output: str) -> Iterator[tuple[str, bool]]:
    """The leaves of an output without its errors, as (text, is a key). JSON inside a text is read as well."""
    stack: list[tuple[Any, bool]] = [(output, False)]
    depth = 0
    while stack:
        item, is_key = stack.pop()
        if isinstance(item, str) and not is_key and depth < _MOST_NESTED:
            inner = _parsed(item)
            if inner is not item and inner != item:
                depth += 1
                stack.append((inner, False))
                continue
        if isinstance(item, dict):
            if _is_error_object(item):
                continue
            for key, value in item.items():
                if isinstance(key, str) and _ERROR_KEYS.fullmatch(key) and _says_error(value) and not _number(value):
                    continue
                # a field's name is no value; the key of a nested object or list may be an entity
                if isinstance(value, dict | list) or len(item) == 1:
                    stack.append((str(key), True))
                stack.append((value, False))
        elif isinstance(item, list | tuple):
            stack.extend((inner, False) for inner in item)
        elif isinstance(item, str):
            if is_key or not is_error_text(item):
                yield item, is_key
        else:
            yield json.dumps(item, default=str), is_key


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def answered(answers: Sequence[str], found: Sequence[int], output: str, arguments: Mapping[str, Any]) -> list[int]:
    """Those of the matching sub-answers (`found`, indices) that the output shows the tool to have found."""
    leaves = [(tokens_of(text), text, is_key) for text, is_key in found_leaves(output)]
    segments = [tokens for tokens, _, _ in leaves]
    given = list(_argument_leaves(arguments))
    kept = [
        index
        for index in found
        if all(any(holds(part, segment) for segment in segments) for part in parts_of(answers[index]))
        and not _is_echo(parts_of(answers[index]), given, segments)
    ]
    return [index for index in kept if _is_few(parts_of(answers[index]), answers, kept, leaves)]


def _argument_leaves(value: Any) -> Iterator[tuple[tuple[Token, ...], list[Any]]]:
    """The tokens of each leaf of the arguments, keys of nested objects too, with the values of the list it stands
    in.
    """
    stack: list[tuple[Any, list[Any]]] = [(inner, []) for inner in value.values()] if isinstance(value, Mapping) else []
    if isinstance(value, Mapping):
        stack += [(key, []) for key in value]
    while stack:
        item, beside = stack.pop()
        if isinstance(item, dict):
            stack.extend((part, []) for pair in item.items() for part in pair)
        elif isinstance(item, list):
            stack.extend((inner, item) for inner in item)
        else:
            yield tokens_of(item if isinstance(item, str) else json.dumps(item)), beside


def _is_echo(
    parts: Sequence[Sequence[Token]],
    given: Sequence[tuple[tuple[Token, ...], list[Any]]],
    segments: Sequence[Sequence[Token]],
) -> bool:
    """Every part stands in the arguments, and nothing shows that the tool chose it."""
    for part in parts:
        places = [(tokens, beside) for tokens, beside in given if holds(part, tokens)]
        if (
            not places
            or _is_larger_of(part, given, segments)
            or any(_was_chosen(part, tokens, beside, segments) for tokens, beside in places)
        ):
            return False
    return True


def _is_larger_of(
    part: Sequence[Token],
    given: Sequence[tuple[tuple[Token, ...], list[Any]]],
    segments: Sequence[Sequence[Token]],
) -> bool:
    """The output is one of the numbers in the arguments and nothing else, as of a tool that compares two numbers."""
    if part[0].number is None or len(part) > 1 or len(segments) != 1 or len(segments[0]) != 1:
        return False
    return any(len(tokens) == 1 and tokens[0].number is not None and not holds(part, tokens) for tokens, _ in given)


def _was_chosen(
    part: Sequence[Token], tokens: Sequence[Token], beside: list[Any], segments: Sequence[Sequence[Token]]
) -> bool:
    """The argument held another value of the same kind and the output left it out, or a leaf of the output holds the
    part of a longer text without the rest."""
    if part[0].number is None and len(tokens) > len(part):
        return any(holds(part, segment) and not holds(tokens, segment) for segment in segments)
    others = [tokens_of(item if isinstance(item, str) else json.dumps(item)) for item in beside]
    if part[0].number is not None:
        others += [(token,) for token in tokens if token.number is not None]
    return any(
        other and not holds(part, other) and not any(holds(other, segment) for segment in segments) for other in others
    )


def _is_few(
    parts: Sequence[Sequence[Token]],
    answers: Sequence[str],
    kept: Sequence[int],
    leaves: Sequence[tuple[tuple[Token, ...], str, bool]],
) -> bool:
    """At most MOST_VALUES values of the answer's kind that answer no sub-question."""
    first = parts[0][0]
    known = [part for index in kept for part in parts_of(answers[index])]
    values: set[Any] = set()
    for tokens, text, is_key in leaves:
        if first.number is not None:
            values.update(token.number for token in tokens if token.number is not None)
        elif first.day is not None:
            values.update(token.day for token in tokens if token.day is not None)
        elif not is_key:
            values.update(item.strip().casefold() for item in _ITEM.split(text) if item.strip())
    if len(values) <= MOST_VALUES:
        return True
    if first.number is not None:
        return len(values - {token.number for part in known for token in part}) <= MOST_VALUES
    if first.day is not None:
        return len(values - {token.day for part in known for token in part}) <= MOST_VALUES
    rest = [tokens for tokens in map(tokens_of, values) if any(token.number is None for token in tokens)]
    return sum(not any(holds(part, tokens) for part in known) for tokens in rest) <= MOST_VALUES


def overlapping(answers: Sequence[str], found: Sequence[int], segments: Sequence[Sequence[Token]]) -> list[list[int]]:
    """The matching sub-answers in groups: two are in one group if they can be read off the same tokens (equal ones, "5"
    and "5 km", "York" and "New York"). One output answers one of a group, since it stands there once for all of
    them.
    """
    if len(found) < 2:
        return [list(found)] if found else []
    groups: list[tuple[list[int], set[tuple[int, int]]]] = []
    for index in found:
        spans = {
            (number, at)
            for part in parts_of(answers[index])
            for number, segment in enumerate(segments)
            for start in range(len(segment))
            if holds(part, segment[start : start + len(part)])
            for at in range(start, min(start + len(part), len(segment)))
        }
        members = [index]
        for group in [group for group in groups if group[1] & spans]:
            groups.remove(group)
            members, spans = group[0] + members, group[1] | spans
        groups.append((members, spans))
    return [members for members, _ in groups]
