"""Several authors that take turns: `--author facts+worlds`. Each environment records the author that wrote it.

The turn depends on the environment's index alone, so it does not matter who builds which index, and when.
"""

from __future__ import annotations

from collections.abc import Mapping

from env_construction.building.author import Author, Decomposition, Draft, Step, Toolset, WrittenDocument
from env_construction.environment.schema import SCENARIOS, ToolDocument

SEPARATOR = "+"
TURN = 2 * len(SCENARIOS)
"""Environments in a row by one author: each scenario with real and with permuted facts."""


def names_of(author: str) -> list[str]:
    """The names in an author's name: one, or those that take turns."""
    return author.split(SEPARATOR)


def author_at(author: str, index: int) -> str:
    """The name of the author who writes environment `index`."""
    names = names_of(author)
    return names[index // TURN % len(names)]


class MixedAuthor:
    """Implements `Author`. Each draft goes to the author that it names."""

    def __init__(self, authors: Mapping[str, Author]) -> None:
        self.name = SEPARATOR.join(authors)
        self.tries = max(author.tries for author in authors.values())
        self._authors = authors

    def decompose(self, draft: Draft, problem: str | None) -> Decomposition:
        return self._authors[draft.author].decompose(draft, problem)

    def write_document(self, draft: Draft, step: Step, problem: str | None) -> WrittenDocument:
        return self._authors[draft.author].write_document(draft, step, problem)

    def integrate(self, draft: Draft, problem: str | None) -> Toolset:
        return self._authors[draft.author].integrate(draft, problem)

    def scale(self, draft: Draft, strategy: str, problem: str | None) -> Toolset:
        return self._authors[draft.author].scale(draft, strategy, problem)

    def deploy(self, draft: Draft, tool: ToolDocument, problem: str | None) -> str:
        return self._authors[draft.author].deploy(draft, tool, problem)

    def instruction(self, draft: Draft) -> str:
        return self._authors[draft.author].instruction(draft)
