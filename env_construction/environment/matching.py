"""Does a tool's output hold a sub-answer? Two answers to that question: `published` and `strict`.

`published` is the authors' rule (paper/README.md, "Reward for one model turn"), order-dependence and substring matches
included: the sub-answer is split at ", ", and each part, lower-cased and without commas, must be a substring of the
output, lower-cased and without commas. Error texts are output like any other.

`strict` mends defects 4, 5 and 7 of that rule:
- a part matches whole tokens only ("2" is not in "2023", "no" is not in "unknown");
- numbers are compared by value ("4,478" = 4478.0 = "4478 m"), dates by day ("August 21, 1949" = "1949-08-21");
- the calls of a turn are assigned to sub-answers by a maximum bipartite matching, whatever their order;
- a failed call never solves anything, whether the tool raised or returned its error (`evidence.py`), and a sub-answer
  without a letter or digit never matches;
- an output that only repeats the call's arguments solves nothing, and neither does one that lists many values;
- a call may solve every sub-answer that it answers, and the same call made again solves nothing. `published` gives a
  call one sub-answer, so there a batched call has to be repeated to be paid in full.

Here and not in `reward/`, because construction checks its own environments with the same rule.
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
"""The strict final statement may hold so many tokens, and twice the answer's own."""
_ANSWER_MARK = re.compile(r"\banswer(?:\s+is\b|\s*:)", re.IGNORECASE)


class Result(Protocol):
    """What `assign` needs to know of a tool result."""

    @property
    def output(self) -> str: ...

    @property
    def ok(self) -> bool: ...


def published_match(sub_answer: str, output: str) -> bool:
    """The authors' rule: every ", "-part of the sub-answer is a substring of the output, commas and case aside.

    An empty part is a substring of everything: "" matches any output (defect 4), as published.
    """
    text = output.lower().replace(",", "").strip()
    return all(part in text for part in _published_parts(sub_answer))


@lru_cache(maxsize=65536)
def _published_parts(sub_answer: str) -> tuple[str, ...]:
    """The texts that have to stand in an output. The same few sub-answers are looked for in many outputs."""
    return tuple(part.lower().replace(",", "").strip() for part in sub_answer.split(", "))


def strict_match(sub_answer: str, output: str) -> bool:
    """Every ", "-part of the sub-answer stands in the output as whole tokens; numbers by value, dates by day.

    An output that is a JSON object or array is searched leaf by leaf (keys are leaves too), so that no match runs
    across two fields. A sub-answer without a letter or digit never matches.
    """
    return _all_parts_in(sub_answer, [tokens_of(segment) for segment in segments_of(output)])


def answer_in_text(answer: str, text: str, match: str) -> bool:
    """Is the final answer in the model's text? The whole answer, not split at ", ".

    published: substring, case and commas aside. strict: its tokens stand in the text, one after the other.
    Raises ValueError for an unknown `match`.
    """
    _check(match)
    if match == "published":
        return answer.lower().replace(",", "").strip() in text.lower().replace(",", "").strip()
    wanted = tokens_of(answer)
    return bool(wanted) and holds(wanted, tokens_of(text))


def only_answer_in_text(answer: str, text: str, others: Sequence[str]) -> bool:
    """The strict test of a final text: it states the answer, states no other sub-answer, and is short.

    The final statement counts: what follows the last "answer is" or "answer:", or the whole text without one. So an
    explanation may name earlier sub-answers if it ends in a clear answer. An `others` entry that stands in the answer,
    or holds it, is not another answer.
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

    A sub-answer is solved at most once. published: each call takes the first open sub-answer in list order that
    matches, error texts included, and never a second one. strict: as many sub-answers as can be solved (a maximum
    bipartite matching); a call solves each of its answers, but of sub-answers that share a place in its output only
    one. The calls' `arguments` (strict only) tell an echo and a repeated call; without them both go unseen. `earlier`
    holds the `call_key` and output of the tool's calls in earlier turns: the same call with the same output solves
    nothing again.
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
    """What two calls of one tool share if they have the same arguments, in whatever order of keys."""
    return json.dumps(arguments, sort_keys=True)


def _segments(output: str) -> tuple[tuple[Token, ...], ...]:
    """The tokens of each segment. The samples of one prompt make the same calls, so short outputs come up again."""
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
    """A maximum matching of `edges` in which as many owners (calls) as possible have a match: left vertex -> right
    vertex or None.

    The reward counts a call that solves k sub-answers as k, so who solves what must not depend on the order of the
    calls.
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
    """Kuhn's algorithm, augmenting paths found breadth-first (no recursion): left vertex -> right vertex or None.

    What is matched in `start` stays matched, perhaps to another vertex.
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
