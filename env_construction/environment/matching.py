"""Decide if a tool's output contains a sub-answer. There are two rules: `published` and `strict`.

`published` is the authors' rule (paper/README.md, "Reward for one model turn"), with its order dependence and substring
matches. The sub-answer is split at ", ". Each part, lower-cased and without commas, must be a substring of the output,
lower-cased and without commas. Error texts count like any other output.

`strict` fixes defects 4, 5 and 7 of that rule:
- A part matches complete tokens only ("2" is not in "2023", "no" is not in "unknown").
- Numbers compare by value ("4,478" = 4478.0 = "4478 m"), dates by day ("August 21, 1949" = "1949-08-21").
- A maximum bipartite matching assigns the calls of a turn to sub-answers, so their order does not matter.
- A failed call never solves anything, whether the tool raised or returned its error (`evidence.py`). A sub-answer
  without a letter or digit never matches.
- An output that only repeats the call's arguments solves nothing. Neither does one that lists many values.
- A call may solve every sub-answer that it answers, and a repeated call solves nothing. `published` gives a call one
  sub-answer, so there a batched call must be repeated to earn its full reward.

The module is not in `reward/`, because construction checks its own environments with the same rule.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from env_construction.environment.answer_tokens import Token, holds, parts_of, segments_of, tokens_of
from env_construction.environment.evidence import answered, overlapping

MATCHES = ("published", "strict")
_SHORT = 2000
MOST_WORDS = 100
"""Maximum number of tokens in the strict final statement, in addition to twice the answer's own."""
_ANSWER_MARK = re.compile(r"\banswer(?:\s+is\b|\s*:)", re.IGNORECASE)


class Result(Protocol):
    """The parts of a tool result that `assign` uses."""

    @property
    def output(self) -> str: ...

    @property
    def ok(self) -> bool: ...


def published_match(sub_answer: str, output: str) -> bool:
    """The authors' rule: every ", "-part of the sub-answer is a substring of the output, ignoring commas and case.

    An empty part is a substring of everything, so "" matches any output (defect 4), as published.
    """
    text = output.lower().replace(",", "").strip()
    return all(part in text for part in _published_parts(sub_answer))


@lru_cache(maxsize=65536)
def _published_parts(sub_answer: str) -> tuple[str, ...]:
    """The texts that an output must contain. Cached, because many outputs are searched for the same few sub-answers."""
    return tuple(part.lower().replace(",", "").strip() for part in sub_answer.split(", "))


def strict_match(sub_answer: str, output: str) -> bool:
    """Whether the output contains every ", "-part of the sub-answer as complete tokens; numbers by value, dates by day.

    An output that is a JSON object or array is searched leaf by leaf (keys are leaves too), so that no match spans two
    fields. A sub-answer without a letter or digit never matches.
    """
    return _all_parts_in(sub_answer, _segments(output))


def answer_in_text(answer: str, text: str, match: str) -> bool:
    """Whether the model's text contains the final answer. The answer is not split at ", ".

    published: as a substring, ignoring case and commas. strict: its tokens, one after another.
    Raises ValueError for an unknown `match`.
    """
    _check(match)
    if match == "published":
        return answer.lower().replace(",", "").strip() in text.lower().replace(",", "").strip()
    wanted = tokens_of(answer)
    return bool(wanted) and holds(wanted, tokens_of(text))


def only_answer_in_text(answer: str, text: str, others: Sequence[str]) -> bool:
    """The strict test of a final text: it states the answer, states no other sub-answer, and is short.

    Only the final statement counts: the text after the last "answer is" or "answer:", or the complete text if there is
    none. So an explanation may name earlier sub-answers if it ends in a clear answer. An `others` entry that the answer
    contains, or that contains the answer, is not another answer.
    """
    statement = _ANSWER_MARK.split(text)[-1]
    wanted, said = tokens_of(answer), tokens_of(statement)
    if not wanted or not holds(wanted, said) or len(said) > MOST_WORDS + 2 * len(wanted):
        return False
    for other in others:
        tokens = tokens_of(other)
        if tokens and not holds(tokens, wanted) and not holds(wanted, tokens) and holds(tokens, said):
            return False
    return True


def assign(
    answers: Sequence[str],
    results: Sequence[Result],
    match: str,
    arguments: Sequence[Mapping[str, Any]] | None = None,
    earlier: Collection[tuple[str, str]] = (),
) -> list[tuple[int, ...]]:
    """For the calls of ONE tool, in call order: the indices of the sub-answers that each call solves.

    A sub-answer is solved at most once. published: each call solves the first open sub-answer in list order that
    matches, and at most one; error texts count as output. strict: as many sub-answers as possible are solved (a maximum
    bipartite matching). A call solves each of its answers, but only one of several that share a place in its output.
    The calls' `arguments` (strict only) reveal echoes and repeated calls; without them, both go undetected. `earlier`
    holds the `call_key` and output of the tool's calls in earlier turns: a call that repeats one of them, with the same
    output, solves nothing.
    Raises ValueError for an unknown `match`.
    """
    _check(match)
    if match == "published":
        taken: set[int] = set()
        chosen: list[tuple[int, ...]] = []
        for result in results:
            found = [i for i, a in enumerate(answers) if i not in taken and published_match(a, result.output)][:1]
            chosen.append(tuple(found))
            taken.update(found)
        return chosen
    owners: list[int] = []
    edges: list[list[int]] = []
    made: set[str] = set()
    for place, result in enumerate(results):
        segments = _segments(result.output) if result.ok and answers else ()
        found = [i for i, answer in enumerate(answers) if _all_parts_in(answer, segments)]
        if not found:
            continue
        given: Mapping[str, Any] = {}
        if arguments is not None:
            given = arguments[place]
            key = call_key(given)
            if key in made or (key, result.output) in earlier:
                continue
            made.add(key)
        found = answered(answers, found, result.output, given)
        for group in overlapping(answers, found, segments):
            owners.append(place)
            edges.append(group)
    solved: list[list[int]] = [[] for _ in results]
    for owner, index in zip(owners, _spread_matching(owners, edges, len(answers)), strict=True):
        if index is not None:
            solved[owner].append(index)
    return [tuple(sorted(indices)) for indices in solved]


def call_key(arguments: Any) -> str:
    """A key that two calls of one tool share if they have the same arguments, in any order of keys."""
    return json.dumps(arguments, sort_keys=True)


def _segments(output: str) -> tuple[tuple[Token, ...], ...]:
    """The tokens of each segment. Short outputs are cached, because samples of one prompt make the same calls."""
    return _short_segments(output) if len(output) <= _SHORT else _short_segments.__wrapped__(output)


@lru_cache(maxsize=4096)
def _short_segments(output: str) -> tuple[tuple[Token, ...], ...]:
    return tuple(tokens_of(segment) for segment in segments_of(output))


def _all_parts_in(sub_answer: str, segments: Sequence[Sequence[Token]]) -> bool:
    parts = parts_of(sub_answer)
    return bool(parts) and all(any(holds(part, segment) for segment in segments) for part in parts)


def _check(match: str) -> None:
    if match not in MATCHES:
        raise ValueError(f"unknown match {match!r}: expected one of {', '.join(MATCHES)}")


def _spread_matching(owners: Sequence[int], edges: Sequence[Sequence[int]], right: int) -> list[int | None]:
    """A maximum matching of `edges` in which as many owners (calls) as possible have a match.

    Returns left vertex -> right vertex or None. The reward counts a call that solves k sub-answers as k calls, so the
    assignment must not depend on the order of the calls.
    """
    calls = sorted(set(owners))
    if len(calls) == len(owners):
        return _maximum_matching(edges, right)
    groups = [[place for place, owner in enumerate(owners) if owner == call] for call in calls]
    one_each = _maximum_matching([[index for place in group for index in edges[place]] for group in groups], right)
    start: list[int | None] = [None] * len(edges)
    for group, index in zip(groups, one_each, strict=True):
        if index is not None:
            start[next(place for place in group if index in edges[place])] = index
    return _maximum_matching(edges, right, start)


def _maximum_matching(
    edges: Sequence[Sequence[int]], right: int, start: Sequence[int | None] | None = None
) -> list[int | None]:
    """Kuhn's algorithm, with augmenting paths found breadth-first (no recursion): left vertex -> right vertex or None.

    Vertices matched in `start` stay matched, possibly to another vertex.
    """
    left_of: list[int | None] = [None] * right
    right_of: list[int | None] = [None] * len(edges) if start is None else list(start)
    for left, index in enumerate(right_of):
        if index is not None:
            left_of[index] = left
    for root in range(len(edges)):
        if right_of[root] is not None:
            continue
        came_from: dict[int, int] = {}
        queue = [root]
        end: int | None = None
        while queue and end is None:
            left = queue.pop(0)
            for candidate in edges[left]:
                if candidate in came_from:
                    continue
                came_from[candidate] = left
                owner = left_of[candidate]
                if owner is None:
                    end = candidate
                    break
                queue.append(owner)
        while end is not None:
            left = came_from[end]
            previous = right_of[left]
            right_of[left], left_of[end] = end, left
            end = previous
    return right_of
