"""Fixtures for all tests: four small environments, a sandbox, a script runner, and a tiny random checkpoint."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import Environment, GoldCall, SubQuestion, ToolDocument
from env_construction.sandbox.tool_sandbox import ToolSandbox

# reward/openrlhf_reward.py does not load without these settings; tests of other settings set their own
os.environ.update(
    FTRL_REWARD_VARIANT="solve_f1", FTRL_REWARD_MATCH="published", FTRL_REWARD_CONTROL="", FTRL_REWARD_SEED="0"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with integration tests first: a slow file at the end leaves other cores idle."""
    slow = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: item.path not in slow)


CODES = {
    "capital_of": """
def capital_of(country, formal=False):
    capitals = {"Peru": "Lima", "Ghana": "Accra", "Fiji": "Suva"}
    return {"country": country, "capital": capitals[country]}
""",
    "population_of": """
def population_of(city):
    return {"Lima": 7737002, "Accra": 1963264, "Suva": 77366}[city]
""",
    "larger_of": """
def larger_of(a, b):
    return max(a, b)
""",
}
TOOLS = [
    ToolDocument(
        name="capital_of",
        description="Capital of a country.",
        parameters={
            "type": "object",
            "properties": {"country": {"type": "string"}, "formal": {"type": "boolean"}},
            "required": ["country"],
        },
    ),
    ToolDocument(
        name="population_of",
        description="Population of a city.",
        parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    ),
    ToolDocument(
        name="larger_of",
        description="The larger of two numbers.",
        parameters={
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    ),
]


def _environment(name: str, question: str, answer: str, steps: list[tuple[str, dict, str, list[str]]]) -> Environment:
    """`steps`: (tool, arguments, sub-answer, ids of required steps). Step i has the id `s<i>`."""
    unsolved: dict[str, list[str]] = {}
    for tool, _, sub_answer, _ in steps:
        unsolved.setdefault(tool, []).append(sub_answer)
    return Environment(
        messages=[{"role": "user", "content": f"Call the tools to answer.\nQuestion: {question}"}],
        tools=TOOLS,
        codes=CODES,
        unsolved_set=unsolved,
        answer=answer,
        data_source=f"self/{name}",
        split="test",
        id=f"atlas-{name}",
        sub_questions=[
            SubQuestion(id=f"s{i}", question=f"step {i}", answer=sub_answer, tool=tool, depends_on=needs)
            for i, (tool, _, sub_answer, needs) in enumerate(steps)
        ],
        gold_plan=[
            GoldCall(sub_question=f"s{i}", name=tool, arguments=arguments)
            for i, (tool, arguments, _, _) in enumerate(steps)
        ],
    )


@pytest.fixture
def environments() -> list[Environment]:
    return small_environments()


def small_environments() -> list[Environment]:
    """One environment of each scenario: 1, 2, 2 and 5 sub-questions."""
    return [
        _environment(
            "single_hop", "What is the capital of Fiji?", "Suva", [("capital_of", {"country": "Fiji"}, "Suva", [])]
        ),
        _environment(
            "parallel_single_hop",
            "What are the capitals of Peru and Ghana?",
            "Lima",
            [
                ("capital_of", {"country": "Peru"}, "Lima", []),
                ("capital_of", {"country": "Ghana"}, "Accra", []),
            ],
        ),
        _environment(
            "multi_hop",
            "How many people live in the capital of Fiji?",
            "77366",
            [
                ("capital_of", {"country": "Fiji"}, "Suva", []),
                ("population_of", {"city": "Suva"}, "77366", ["s0"]),
            ],
        ),
        _environment(
            "parallel_multi_hop",
            "How many people live in the larger one of the capitals of Peru and Ghana?",
            "7737002",
            [
                ("capital_of", {"country": "Peru"}, "Lima", []),
                ("capital_of", {"country": "Ghana"}, "Accra", []),
                ("population_of", {"city": "Lima"}, "7737002", ["s0"]),
                ("population_of", {"city": "Accra"}, "1963264", ["s1"]),
                ("larger_of", {"a": 7737002, "b": 1963264}, "7737002", ["s2", "s3"]),
            ],
        ),
    ]


@pytest.fixture
def run_script(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess]:
    """`run_script("reward.score", "--out", path)` runs `python -m reward.score --out path` without a new process."""

    def run(module: str, *arguments: object) -> subprocess.CompletedProcess:
        words = [module, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            run_main(importlib.import_module(module).main)
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(words, ended.value.code or 0, shown.out, shown.err)

    return run


@pytest.fixture(scope="session")
def sandbox() -> Iterator[ToolSandbox]:
    with ToolSandbox(workers=1) as opened:
        yield opened


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialized Qwen3-architecture checkpoint with its own tokenizer and chat template."""
    from train.teaching.tiny_policy import new_model, train_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    texts = [
        f"Question: What is the capital of {name}? The capital of {name} is {city}."
        for name in ("Peru", "Ghana", "Fiji")
        for city in ("Lima", "Accra", "Suva")
    ]
    tokenizer = train_tokenizer(texts, vocabulary=400)
    new_model(tokenizer, seed=1, layers=2, width=32, heads=4).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
