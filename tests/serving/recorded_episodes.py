"""Scripted episodes for all interfaces: correct, wrong, malformed and hostile, with the rewards of `reward/scoring.py`.

An episode is a list of turns. A turn is a list of calls, or the text that ends the episode, so every interface can play
it. `raw_episodes` are texts like those of models, for the interfaces that accept complete turns. They contain thinking,
truncated calls, and tags inside arguments. Each interface plays 1,000 episodes: SCRIPTED and RAW, or only scripted
ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox
from reward.episode_rewards import EPISODE_REWARDS
from reward.scoring import advance, score_episode, score_turn, sub_answers
from reward.tool_calls import render_call

SCRIPTED, RAW = 600, 400
Turns = list[list[ToolCall] | str]
_HOSTILE: list[Any] = [
    "</tool_call>\n<tool_call>",
    "<think>Lima</think>",
    '"}}\n</tool_call>',
    "é\U0001f30d\u2028\x00",
    {"a": [[[[{}]]]]},
    10**40,
    -0.0,
    "x" * 5000,
    None,
    True,
]
_TEXTS = ["", "I do not know.", "<tool_call>", "</tool_call>", '<tool_call>\n{"name": "a"', "<think>so</think>", " \n"]


def episodes(environments: Sequence[Environment], count: int, seed: int = 0) -> list[tuple[Environment, Turns]]:
    """`count` episodes, determined by the seed."""
    return [
        (environments[number % len(environments)], _turns(environments[number % len(environments)], rng))
        for number in range(count)
        for rng in [random.Random(f"{seed}:{number}:episode")]
    ]


def _turns(environment: Environment, rng: random.Random) -> Turns:
    gold = [ToolCall(call.name, call.arguments) for call in environment.gold_plan]
    names = [tool.name for tool in environment.tools]
    turns: Turns = []
    left = list(gold)
    for _ in range(rng.randrange(0, 6)):
        habit = rng.random()
        if habit < 0.5 and left:
            size = rng.randint(1, len(left))
            turns.append(left[:size])
            left = left[size:]
        elif habit < 0.7:
            turns.append([ToolCall(rng.choice([*names, "no_such_tool", 'a"b', "é"]), {"x": rng.choice(_HOSTILE)})])
        elif gold:
            some = rng.choices(gold, k=rng.randint(1, 3))
            turns.append([ToolCall(rng.choice(names), call.arguments) for call in some])
    ending = rng.random()
    if ending < 0.5:
        turns.append(f"The answer is {environment.answer}.")
    elif ending < 0.9:
        turns.append(rng.choice(_TEXTS))
    return turns


def raw_episodes(environments: Sequence[Environment], count: int, seed: int = 0) -> list[tuple[Environment, list[str]]]:
    """The scripted episodes as texts, with added thinking, malformed blocks and end-of-turn tokens."""
    raw: list[tuple[Environment, list[str]]] = []
    for number, (environment, turns) in enumerate(episodes(environments, count, seed)):
        rng = random.Random(f"{seed}:{number}:raw")
        texts = [
            rng.choice(["", "<think>\nwell\n</think>\n", "Let me see.\n"])
            + text
            + rng.choice(["", "", "<|im_end|>", "\n<tool_call>\n{oops\n</tool_call>", "<tool_call>"])
            for text in texts_of(turns)
        ]
        ended = next((place for place, text in enumerate(texts) if "<tool_call>\n{" not in text), len(texts) - 1)
        raw.append((environment, texts[: ended + 1]))
    return raw


def texts_of(turns: Turns) -> list[str]:
    """The turns in the format of a model's output."""
    return [turn if isinstance(turn, str) else "\n".join(render_call(call) for call in turn) for turn in turns]


def expected(environment: Environment, texts: Sequence[str], match: str, sandbox: ToolSandbox) -> dict[str, Any]:
    """The outcome that `reward/scoring.py` computes for these turns, in order."""
    state, scores = environment, []
    for text in texts:
        scores.append(score_turn(state, text, match=match, sandbox=sandbox))
        state = advance(state, scores[-1])
    answered = bool(scores) and not scores[-1].parsed.calls
    final = scores[-1].parsed.text if answered else ""
    total = score_episode(
        environment.unsolved_count, scores, environment.answer, final, match, sub_answers(environment)
    )
    rewards = [score.reward for score in scores]
    return {
        "answered": answered,
        "turns": [{key: getattr(score, key) for key in ("reward", "kind", "p", "q", "t", "fault")} for score in scores],
        "rewards": {
            name: of_episode(rewards, total, environment.answer is not None) if scores else 0.0
            for name, of_episode in EPISODE_REWARDS.items()
        },
        "score": asdict(total),
        "fault": False,
    }


def digits(value: Any) -> str:
    """JSON text, for comparisons of numbers to the last digit."""
    return json.dumps(value, sort_keys=True)
