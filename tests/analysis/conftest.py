"""A small synthetic run: real environments, tools and scorer, policies of known skill, checkpoints with a known change.

The policies play through the real rollout and evaluation, so every file has the same layout as in a real run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from env_construction.environment.jsonl import write_jsonl
from env_construction.environment.schema import Environment, GoldCall, SubQuestion, ToolDocument, write_environments
from env_construction.sandbox.tool_sandbox import ToolCall
from eval.environments import GROUPS, METRICS, evaluate
from eval.suites.results import summarize, write_summary
from reward.tool_calls import render_call
from train.collect_trajectories import trajectory_row
from train.experiments import experiment
from train.policies.interface import Generation, OraclePolicy, Policy, PolicyRequest, RandomPolicy, ready_calls
from train.policies.rollout import play
from train.stages.policy_roles import Role, trained_role, write_roles

CAPITALS = {
    "Peru": "Lima",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Chile": "Santiago",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
}
POPULATIONS = {"Lima": 10719, "Nairobi": 4397, "Oslo": 709, "Santiago": 6903, "Tokyo": 13960, "Cairo": 10230}
CAPITAL_CODE = f"""def capital_of(country):
    table = {CAPITALS!r}
    if country not in table:
        raise ValueError("unknown country: " + str(country))
    return {{"capital": table[country]}}
"""
POPULATION_CODE = f"""def population_of(city):
    table = {POPULATIONS!r}
    return {{"thousands": table[city]}} if city in table else {{"error": "no such city"}}
"""
CLOCK_CODE = "def clock(zone='UTC'):\n    return {'time': '12:00', 'zone': zone}\n"


def tool(name: str, parameter: str) -> ToolDocument:
    return ToolDocument(
        name=name,
        description=f"Looks up {name.replace('_', ' ')} a {parameter}.",
        parameters={"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]},
    )


TOOLS = [tool("capital_of", "country"), tool("population_of", "city"), tool("clock", "zone")]
CODES = {"capital_of": CAPITAL_CODE, "population_of": POPULATION_CODE, "clock": CLOCK_CODE}


def synthetic_environment(scenario: str, number: int) -> Environment:
    countries = random.Random(f"0:{number}:{scenario}").sample(sorted(CAPITALS), 2)
    steps: list[tuple[str, str, str, str, list[str]]] = []
    used = countries if scenario.startswith("parallel") else countries[:1]
    for place, country in enumerate(used):
        capital = CAPITALS[country]
        steps.append((f"s{place}", f"What is the capital of {country}?", "capital_of", capital, []))
        if scenario.endswith("multi_hop"):
            steps.append(
                (
                    f"p{place}",
                    f"How many thousand people live in {capital}?",
                    "population_of",
                    str(POPULATIONS[capital]),
                    [f"s{place}"],
                )
            )
    plan = []
    for step, question, name, _, _ in steps:
        argument = question.removesuffix("?").rsplit(" ", 1)[-1]
        plan.append(
            GoldCall(
                sub_question=step, name=name, arguments={("country" if name == "capital_of" else "city"): argument}
            )
        )
    unsolved: dict[str, list[str]] = {}
    for _, _, name, answer, _ in steps:
        unsolved.setdefault(name, []).append(answer)
    return Environment(
        messages=[{"role": "user", "content": "Use the tools.\nQuestion: " + " ".join(step[1] for step in steps)}],
        tools=TOOLS,
        codes=CODES,
        unsolved_set=unsolved,
        answer=steps[-1][3],
        data_source=f"self/{scenario}",
        split="test",
        id=f"{scenario}-{number}",
        sub_questions=[SubQuestion(id=s, question=q, tool=t, answer=a, depends_on=d) for s, q, t, a, d in steps],
        gold_plan=plan,
    )


def synthetic_role(name: str) -> Role:
    """The role of a policy in the synthetic run, as the pipeline writes it for one model and mode."""
    if name in ("random", "oracle"):
        return Role("floor" if name == "random" else "ceiling")
    if name == "start":
        return Role("start", "tiny", "plain", "outputs/synthetic/start")
    if name == "more-supervised":
        return Role("control", "tiny", "plain", "outputs/synthetic/more-supervised", "start", control="more-supervised")
    row = experiment(f"tiny-plain-{name}")
    return trained_role(row, "start", f"outputs/synthetic/train/{name}/epoch2/checkpoint", 0)


class SkilledPolicy:
    """Makes the gold calls with probability `skill`, else one of the errors that failure_modes distinguishes."""

    def __init__(self, name: str, skill: float) -> None:
        self.name, self.skill = name, skill

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        return [
            Generation(text=self.turn(request), tokens=20, prompt_tokens=100, truncated=False) for request in requests
        ]

    def turn(self, request: PolicyRequest) -> str:
        chance = random.Random(f"{request.case_id}:{request.turn}:{request.trial}")
        ready = ready_calls(request.environment)
        if not ready:
            return f"The answer is {request.environment.answer}."
        if chance.random() < self.skill:
            return "\n".join(render_call(call) for call in ready)
        error = chance.choice(("tool", "argument", "malformed", "give up", "invent", "redundant"))
        if error == "tool":
            return render_call(ToolCall("clock", {"zone": "Mars"}))
        if error == "argument":
            return render_call(ToolCall(ready[0].name, {key: "Atlantis" for key in ready[0].arguments}))
        if error == "malformed":
            return '<tool_call>\n{"name": "capital_of", "arguments"\n</tool_call>'
        if error == "give up":
            return "i do not know."
        if error == "invent":
            return "The answer is Quito."
        return "\n".join([render_call(ready[0]), render_call(ToolCall("clock", {"zone": "UTC"}))])


def write_checkpoint(folder: Path, layers: int, seed: int, change: float = 0.0) -> None:
    """A checkpoint with Qwen3's tensor names. MLPs of lower layers change by `change`, all others by a tenth of it."""
    draw = np.random.default_rng(seed)
    moved = np.random.default_rng(seed + 1)
    shapes = {"model.embed_tokens.weight": (32, 8), "model.norm.weight": (8,)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{name}_proj.weight": (8, 8) for name in "qkvo"}
        shapes |= {f"{prefix}mlp.{name}_proj.weight": (16, 8) for name in ("gate", "up")}
        shapes |= {f"{prefix}mlp.down_proj.weight": (8, 16), f"{prefix}input_layernorm.weight": (8,)}
    tensors = {}
    for name, shape in shapes.items():
        lower = ".mlp." in name and int(name.split(".")[2]) < max(1, layers // 3)
        step = moved.standard_normal(shape) * change * (1.0 if lower else 0.1)
        tensors[name] = (draw.standard_normal(shape) * (1 + step)).astype(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")


def write_training(run: Path, algorithm: str, environments: list[Environment], skills: Sequence[float]) -> None:
    for number, skill in enumerate(skills, start=1):
        folder = run / "train" / algorithm / f"epoch{number}"
        episodes = play(SkilledPolicy(algorithm, skill), environments, max_turns=6, seed=number)
        write_jsonl(folder / "trajectories.jsonl", [trajectory_row(episode) for episode in episodes])
        chance = random.Random(f"{algorithm}:{number}")
        rows: list[dict[str, Any]] = []
        for step in range(1, 13):
            level = skill + 0.01 * step + 0.05 * chance.random()
            rows.append(
                {
                    "step": step,
                    "epoch": number,
                    "reward": level,
                    "kl": 0.001 * step,
                    "fault": 0.0,
                    "kind_malformed": 0.2 - 0.1 * level,
                    "response_length": 40 + 5 * chance.random(),
                    "p": 1.6 - 0.3 * level,
                    "q": level,
                }
            )
        write_jsonl(folder / "train_log.jsonl", rows)
        (folder / "prompts.summary.json").write_text(json.dumps({"prefixes": 60, "kept": 48}))
    write_checkpoint(run / "train" / algorithm / f"epoch{len(skills)}" / "checkpoint", 9, seed=1, change=0.2)


@pytest.fixture(scope="session")
def synthetic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the synthetic run. It is read-only: tests that write to it use a copy."""
    run = tmp_path_factory.mktemp("outputs") / "synthetic"
    scenarios = ("single_hop", "parallel_single_hop", "multi_hop", "parallel_multi_hop")
    test = [synthetic_environment(scenario, number) for number in range(6) for scenario in scenarios]
    train = [synthetic_environment(scenario, number) for number in range(6, 9) for scenario in scenarios]
    write_environments(run / "environments" / "test.jsonl", test)
    write_environments(run / "environments" / "train.jsonl", train)
    policies: dict[str, Policy] = {
        "random": RandomPolicy(),
        "start": SkilledPolicy("start", 0.35),
        "grpo": SkilledPolicy("grpo", 0.85),
        "reinforce++": SkilledPolicy("reinforce++", 0.8),
        "grpo-solve-pr": SkilledPolicy("grpo-solve-pr", 0.6),
        "grpo-shuffled": SkilledPolicy("grpo-shuffled", 0.35),
        "more-supervised": SkilledPolicy("more-supervised", 0.4),
        "oracle": OraclePolicy(),
    }
    for name, policy in policies.items():
        folder = run / "eval" / name
        rows, faults = evaluate(policy, test, folder, max_turns=6)
        write_summary(folder, summarize("environments", name, rows, METRICS, groups=GROUPS, extra={"faults": faults}))
    write_roles(run, {name: synthetic_role(name) for name in policies})
    for algorithm in ("grpo", "reinforce++", "grpo-solve-pr"):
        write_training(run, algorithm, train, (0.35, 0.6))
    write_checkpoint(run / "start", 9, seed=1)
    (run / "start" / "warm_start.json").write_text(
        json.dumps({"parameters": 4000, "seed": 7, "demonstrations": {"mix": {"right": 0.4, "early": 0.6}}})
    )
    write_jsonl(
        run / "stages.jsonl",
        [
            {"stage": "build", "seconds": 3.5, "finished": "2026-01-01T00:00:00Z"},
            {"stage": "train", "seconds": 60, "finished": "2026-01-01T00:01:00Z"},
        ],
    )
    (run / "configuration.json").write_text(json.dumps({"profile": "cpu", "model": "tiny", "seed": 1}))
    return run
