"""Training data of a start policy: demonstrated tool use, and the six made skills, both with and without thinking.

A lesson is a finished conversation and the mode in which its template is rendered. Each environment is demonstrated in
one mode and each skill item is answered in one mode, so that no conversation is seen twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from env_construction.environment.schema import Environment
from train.policies.rollout import play
from train.teaching.demonstrations import Demonstrator
from train.teaching.made_skills import SKILLS, Item, made_items


@dataclass(frozen=True)
class Lesson:
    """A conversation to learn. `kind`: "tools" or a made skill's name; `environment`: the played one, if any."""

    kind: str
    messages: list[dict[str, Any]]
    thinking: bool
    environment: Environment | None = None

    @property
    def tools(self) -> list[dict[str, Any]]:
        return self.environment.openai_tools() if self.environment else []


def tool_lessons(
    environments: Sequence[Environment], mix: dict[str, float], thinking_share: float, seed: int
) -> list[Lesson]:
    """All environments as a demonstrator plays them; the first `thinking_share` of every hundred with thinking."""
    lessons = []
    for thinking in (False, True):
        chosen = [item for place, item in enumerate(environments) if (place % 100 < 100 * thinking_share) == thinking]
        episodes = play(Demonstrator(seed, mix, thinking), chosen, max_turns=12, seed=seed)
        states = [episode.state for episode in episodes if episode.outcome != "fault"]
        lessons += [Lesson("tools", state.messages, thinking, state) for state in states]
    return lessons


def skill_lessons(count: int, thinking_share: float, seed: int) -> list[Lesson]:
    """Train items of the made skills, `count` in all, as many of each."""
    return [
        Lesson(skill, [question(item), answered(item, thinking := place % 100 < 100 * thinking_share)], thinking)
        for skill in SKILLS
        for place, item in enumerate(made_items(skill, "train", count // len(SKILLS), seed))
    ]


def question(item: Item) -> dict[str, Any]:
    """The message that asks a made skill's item."""
    return {"role": "user", "content": item.prompt}


def answered(item: Item, thinking: bool) -> dict[str, Any]:
    """The message that answers it, as it is taught."""
    message = {"role": "assistant", "content": item.answer}
    return message | ({"reasoning_content": item.thoughts} if thinking else {})


def plain_texts(lessons: Sequence[Lesson]) -> Iterator[str]:
    """All texts of the lessons, for a tokenizer to be learned from."""
    for lesson in lessons:
        for tool in lesson.tools:
            yield json.dumps(tool, ensure_ascii=False)
        for message in lesson.messages:
            yield str(message.get("reasoning_content") or "")
            yield str(message.get("content") or "")
            for call in message.get("tool_calls") or ():
                yield json.dumps(call["function"], ensure_ascii=False)
