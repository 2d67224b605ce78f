"""Does a tool's output hold a sub-answer? Two answers to that question: `published` and `strict`.

`published` is the authors' rule (paper/README.md, "Reward for one model turn"), order-dependence and substring matches
included: the sub-answer is split at ", ", and each part, lower-cased and without commas, must be a substring of the
output, lower-cased and without commas. Error texts are output like any other.

`strict` mends defects 4, 5 and 7 of that rule:
- a part matches whole tokens only ("2" is not in "2023", "no" is not in "unknown");
- numbers are compared by value ("4,478" = 4478.0 = "4478 m"), dates by day ("August 21, 1949" = "1949-08-21");
- the calls of a turn are assigned to sub-answers by a maximum bipartite matching, whatever their order;
- a failed call never solves anything, and a sub-answer without a letter or digit never matches.

Here and not in `reward/`, because construction checks its own environments with the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from env_construction.answer_tokens import Token, holds, parts_of, segments_of, tokens_of

MATCHES = ("published", "strict")


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
    return all(part.lower().replace(",", "").strip() in text for part in sub_answer.split(", "))


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


def assign(answers: Sequence[str], results: Sequence[Result], match: str) -> list[int | None]:
    """For the calls of ONE tool, in call order: the index of the sub-answer that each call solves, or None.

    A call solves at most one sub-answer, a sub-answer is solved at most once. published: each call takes the first
    open sub-answer in list order that matches, error texts included. strict: a maximum bipartite matching, in which
    failed calls have no edge; a call that is matched stays matched when later calls are added.
    Raises ValueError for an unknown `match`.
    """
    _check(match)
    if match == "published":
        taken: set[int] = set()
        chosen: list[int | None] = []
        for result in results:
            found = next(
                (i for i, a in enumerate(answers) if i not in taken and published_match(a, result.output)), None
            )
            chosen.append(found)
            if found is not None:
                taken.add(found)
        return chosen
    edges: list[list[int]] = []
    for result in results:
        segments = [tokens_of(segment) for segment in segments_of(result.output)] if result.ok and answers else []
        edges.append([i for i, answer in enumerate(answers) if _all_parts_in(answer, segments)])
    return _maximum_matching(edges, len(answers))


def _all_parts_in(sub_answer: str, segments: Sequence[Sequence[Token]]) -> bool:
    parts = parts_of(sub_answer)
    return bool(parts) and all(any(holds(part, segment) for segment in segments) for part in parts)


def _check(match: str) -> None:
    if match not in MATCHES:
        raise ValueError(f"unknown match {match!r}: expected one of {', '.join(MATCHES)}")


def _maximum_matching(edges: Sequence[Sequence[int]], right: int) -> list[int | None]:
    """Kuhn's algorithm, augmenting paths found breadth-first (no recursion): left vertex -> right vertex or None."""
    left_of: list[int | None] = [None] * right
    right_of: list[int | None] = [None] * len(edges)
    for root in range(len(edges)):
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
