"""Names of policies, models and scenarios in tables and figures, derived from their roles."""

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
OWN_REWARDS = {"solve_f1_stop_penalty": "Solve-F1 reward with stop penalty"}
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
"""The metrics shown together with Solve-F1, so that a gain is always shown with its cost."""


def model_label(model: str) -> str:
    """A model's name as its publisher writes it; `tiny`, `mini` and your own models keep their names."""
    known = MODELS.get(model)
    return known.start.rpartition("/")[2] if known and known.start else model or "unnamed model"


def is_small_model(model: str) -> bool:
    """Whether the model is one of this repository's small models, whose scores say nothing about the paper's models."""
    known = MODELS.get(model)
    return model in ("tiny", "mini") or (known is not None and not known.start)


def method_label(role: Role) -> str:
    """How a policy was trained: `Start`, `GRPO`, `GRPO, Solve-R reward, seed 2`."""
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
        parts.append(
            (REWARDS | OWN_REWARDS).get(role.variant, role.variant) if role.variant not in ("", "solve_f1") else ""
        )
        parts.append("strict matching" if role.match == "strict" else "")
        parts.append(EPISODES.get(role.episode, role.episode))
        parts.append(f"credit {role.credit}" if role.credit else "")
        parts.append("LoRA" if role.adapter else "")
        parts.append(f"without {role.without.replace('_', ' ')}" if role.without else "")
    parts.append(f"seed {role.seed}" if role.seed else "")
    return ", ".join(part for part in parts if part)


def start_label(role: Role, roles: Mapping[str, Role]) -> str:
    """Model and mode if the run has several of them: `Qwen3-8B, thinking`; empty otherwise."""
    models = {other.model for other in roles.values() if other.model}
    modes = {other.mode for other in roles.values() if other.model == role.model}
    parts = [model_label(role.model)] if role.model and len(models) > 1 else []
    parts += [role.mode] if role.mode and len(modes) > 1 else []
    return ", ".join(parts)


def policy_label(role: Role, roles: Mapping[str, Role]) -> str:
    """Model and mode if the run has several, and how the policy was trained: `Qwen3-8B, thinking: GRPO`."""
    head = start_label(role, roles)
    return f"{head}: {method_label(role)}" if head else method_label(role)
