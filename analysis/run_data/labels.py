"""What policies, models and scenarios are called in tables and figures, from their roles."""

from __future__ import annotations

from collections.abc import Mapping

from train.experiments import MODELS
from train.stages.policy_roles import Role

ALGORITHMS = {
    "grpo": "GRPO",
    "reinforce++": "REINFORCE++",
    "reinforce++-baseline": "REINFORCE++ with baseline",
    "rloo": "RLOO",
    "dr-grpo": "Dr. GRPO",
    "gspo": "GSPO",
    "ppo": "PPO",
}
REWARDS = {
    "solve_f1": "Solve-F1 reward",
    "solve_precision": "Solve-P reward",
    "solve_recall": "Solve-R reward",
    "solve_pr": "Solve-PR reward",
}
EPISODES = {"turns": "whole episodes", "answer": "answer reward", "solve_f1": "episode Solve-F1 reward"}
CONTROLS = {"shuffled": "shuffled rewards", "constant": "constant rewards", "more-supervised": "More supervised steps"}
SCENARIOS = {
    "single_hop": "Single-hop",
    "parallel_single_hop": "Parallel single-hop",
    "multi_hop": "Multi-hop",
    "parallel_multi_hop": "Parallel multi-hop",
}
METRICS = {
    "solve_f1": "Solve-F1",
    "answer_correct": "Answer accuracy",
    "solve_p": "Solve-P",
    "solve_r": "Solve-R",
    "calls": "Calls per case",
}
"""What stands beside Solve-F1 wherever it is shown: a gain is shown with what it cost."""


def model_label(model: str) -> str:
    """A model as its publisher writes it; `tiny`, `mini` and your own keep their names."""
    known = MODELS.get(model)
    return known.start.rpartition("/")[2] if known and known.start else model or "unnamed model"


def made_here(model: str) -> bool:
    """Whether the model is one of this repository's own small ones, whose scores say nothing about the paper's
    models.
    """
    known = MODELS.get(model)
    return model in ("tiny", "mini") or (known is not None and not known.start)


def method_label(role: Role) -> str:
    """What was done to a model: `Start`, `GRPO`, `GRPO, Solve-R reward, seed 2`."""
    if role.role == "floor":
        return "Random (floor)"
    if role.role == "ceiling":
        return "Oracle (ceiling)"
    if role.role == "start":
        return "Start"
    control = CONTROLS.get(role.control, role.control.replace("-", " "))
    if not role.algorithm:
        parts = [control[:1].upper() + control[1:] or "Control"]
    else:
        parts = [ALGORITHMS.get(role.algorithm, role.algorithm), control]
        parts.append(REWARDS.get(role.variant, role.variant) if role.variant not in ("", "solve_f1") else "")
        parts.append("strict matching" if role.match == "strict" else "")
        parts.append(EPISODES.get(role.episode, role.episode))
        parts.append("LoRA" if role.adapter else "")
        parts.append(f"without {role.without.replace('_', ' ')}" if role.without else "")
    parts.append(f"seed {role.seed}" if role.seed else "")
    return ", ".join(part for part in parts if part)


def start_label(role: Role, roles: Mapping[str, Role]) -> str:
    """Model and mode, as far as a run has several: `Qwen3-8B, thinking`; empty where it has one."""
    models = {other.model for other in roles.values() if other.model}
    modes = {other.mode for other in roles.values() if other.model == role.model}
    parts = [model_label(role.model)] if role.model and len(models) > 1 else []
    parts += [role.mode] if role.mode and len(modes) > 1 else []
    return ", ".join(parts)


def policy_label(role: Role, roles: Mapping[str, Role]) -> str:
    """Model and mode where a run has several, and what was done: `Qwen3-8B, thinking: GRPO`."""
    head = start_label(role, roles)
    return f"{head}: {method_label(role)}" if head else method_label(role)
