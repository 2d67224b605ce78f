"""Dev results of a start policy during training: tool use in each mode, and the made skills, decoded greedily.

They are for the dev curve only. Final results with intervals come from `eval.environments` and `eval.general`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from env_construction.environment.schema import Environment
from train.policies.interface import Policy, PolicyRequest
from train.policies.rollout import play
from train.policies.specs import load_policy
from train.teaching.lessons import question
from train.teaching.made_skills import Item

TURN_TOKENS = 192
TURNS = 8


def dev_figures(
    folder: Path, dev: Sequence[Environment], items: Sequence[Item], modes: Sequence[bool], seed: int, device: str
) -> dict[str, float]:
    """Figures of the checkpoint in `folder`; those in thinking mode (True among `modes`) are called `thinking_...`."""
    figures: dict[str, float] = {}
    for thinking in modes:
        policy = load_policy(
            f"hf:{folder}", temperature=0.0, max_new_tokens=TURN_TOKENS, device=device, thinking=thinking
        )
        found = tool_figures(policy, dev, seed) | skill_figures(policy, items)
        figures |= {f"thinking_{name}" if thinking else name: value for name, value in found.items()}
    return figures


def tool_figures(policy: Policy, dev: Sequence[Environment], seed: int) -> dict[str, float]:
    """Mean Solve-P/R/F1, right answers, turns that do not parse, and calls whose tool and whose arguments are right."""
    episodes = play(policy, dev, max_turns=TURNS, seed=seed)
    turns = [turn for episode in episodes for turn in episode.turns]
    gold = {
        item.id: {(call.name, json.dumps(call.arguments, sort_keys=True)) for call in item.gold_plan} for item in dev
    }
    gold_names = {item.id: {call.name for call in item.gold_plan} for item in dev}
    right_tool = right_call = calls = 0
    for episode in episodes:
        for turn in episode.turns:
            for call in turn.parsed.calls:
                calls += 1
                right_tool += call.name in gold_names[episode.id]
                right_call += (call.name, json.dumps(call.arguments, sort_keys=True, default=str)) in gold[episode.id]
    return {
        "solve_p": _mean([episode.score.solve_p for episode in episodes]),
        "solve_r": _mean([episode.score.solve_r for episode in episodes]),
        "solve_f1": _mean([episode.score.solve_f1 for episode in episodes]),
        "answer": _mean([float(episode.score.answer_correct) for episode in episodes]),
        "malformed_turns": _mean([float(bool(turn.parsed.malformed)) for turn in turns]),
        "tool_rate": right_tool / max(calls, 1),
        "argument_rate": right_call / max(right_tool, 1),
    }


def skill_figures(policy: Policy, items: Sequence[Item]) -> dict[str, float]:
    """Share of right answers of each made skill among `items`, by the strict look of Item.is_right."""
    requests = []
    for item in items:
        state = Environment(messages=[question(item)], tools=[], codes={}, unsolved_set={}, answer=None, id=item.id)
        requests.append(PolicyRequest(state, item.id, 0, 0, 0))
    right: dict[str, list[float]] = {}
    for item, generation in zip(items, policy.generate(requests) if requests else [], strict=True):
        right.setdefault(item.skill, []).append(float(item.is_right(generation.text)))
    return {skill: _mean(values) for skill, values in right.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
