"""Stateful worlds: built from the seed alone, verified, readable in both formats, played by the oracle to reward 1."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from env_construction.build import main as build
from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment, read_environments
from env_construction.environment.state import difference
from env_construction.rules.validation import validate_environments
from env_construction.sandbox.tool_sandbox import ToolSandbox
from env_construction.worlds.desk_tools import document, plain_tools
from env_construction.worlds.desks import LEAST_TOOLS, desks, read_desk
from env_construction.worlds.stateful_author import TASKS
from train.policies.interface import OraclePolicy
from train.policies.rollout import play

COUNT = 2 * TASKS


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stateful")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("a", "b"):
            counts = ["--n-train", str(COUNT), "--n-dev", "0", "--n-test", "0"]
            patch.setattr(
                "sys.argv",
                ["build", "--author", "worlds", "--stateful", *counts, "--seed", "5", "--out", str(folder / name)],
            )
            build()
    return folder


@pytest.fixture(scope="module")
def environments(built: Path) -> list[Environment]:
    return list(read_environments(built / "a" / "train.jsonl"))


def test_the_bytes_depend_on_the_seed_alone(built: Path) -> None:
    assert (built / "a" / "train.jsonl").read_bytes() == (built / "b" / "train.jsonl").read_bytes()


def test_parquet_holds_the_same_environments(built: Path, environments: list[Environment]) -> None:
    assert list(read_environments(built / "a" / "parquet" / "train.parquet")) == environments


def test_a_world_has_many_tasks_and_tools(environments: list[Environment]) -> None:
    worlds = defaultdict(list)
    for environment in environments:
        worlds[environment.provenance["labels"]["world"]].append(environment)
    assert [len(tasks) for tasks in worlds.values()] == [TASKS, TASKS]
    for tasks in worlds.values():
        assert len({task.question for task in tasks}) == TASKS
        assert len({task.scenario for task in tasks}) == 4
        for task in tasks:
            assert task.state is not None and len(task.tools) >= LEAST_TOOLS
            assert task.state.writing_tools < {tool.name for tool in task.tools}


def test_the_oracle_plays_them_to_reward_1_and_the_right_tables(environments: list[Environment]) -> None:
    with ToolSandbox(workers=1) as sandbox:
        episodes = play(OraclePolicy(), environments, match="strict", sandbox=sandbox)
    for episode in episodes:
        assert episode.score.solve_f1 == 1.0 and episode.score.answer_correct, episode.id
        assert episode.state.state is not None and episode.state.state.is_right()
        assert episode.turns[-1].reward == 1.0


def without_refusals(environment: Environment) -> Environment:
    """Tools that forget their rules."""
    codes = {name: source.replace("if not (", "if False and (") for name, source in environment.codes.items()}
    return environment.model_copy(update={"codes": codes})


def without_rule_texts(environment: Environment) -> Environment:
    tools = [tool.model_copy(update={"description": tool.description.split(".")[0]}) for tool in environment.tools]
    return environment.model_copy(update={"tools": tools})


def with_another_goal(environment: Environment) -> Environment:
    assert environment.state is not None
    goal = environment.state.goals[0]
    wrong = {
        table: {key: {column: "another value" for column in row or {}} for key, row in rows.items()}
        for table, rows in goal.changes.items()
    }
    goals = [goal.model_copy(update={"changes": wrong}), *environment.state.goals[1:]]
    return environment.model_copy(update={"state": environment.state.model_copy(update={"goals": goals})})


def without_goals(environment: Environment) -> Environment:
    assert environment.state is not None
    return environment.model_copy(update={"state": environment.state.model_copy(update={"goals": []})})


BROKEN = {
    "rules_are_enforced": without_refusals,
    "rules_are_stated": without_rule_texts,
    "gold_plan_reaches_state": with_another_goal,
    "state_is_consistent": without_goals,
}


def test_the_validator_finds_what_is_wrong_with_a_state(environments: list[Environment]) -> None:
    with ToolSandbox(workers=1) as sandbox:
        assert not any(item.fatal for item in validate_environments(environments[:1], sandbox)[0])
        found = validate_environments([spoil(environments[0]) for spoil in BROKEN.values()], sandbox)
    for rule, findings in zip(BROKEN, found, strict=True):
        assert rule in {item.rule for item in findings if item.fatal}, rule


def test_goals_are_the_difference_that_the_gold_plan_makes(environments: list[Environment]) -> None:
    for environment in environments:
        state = environment.state
        assert state is not None
        done = state.model_copy(update={"changes": state.goals[0].changes})
        assert done.met() >= {state.goals[0].sub_question} and not done.unasked()
        assert difference(state.tables, done.now) == done.changes


def test_every_desk_states_its_rules() -> None:
    assert len(desks()) >= 7
    for desk in desks().values():
        tools = plain_tools(desk)
        assert len(tools) >= LEAST_TOOLS
        for tool in tools:
            if tool.kind == "act":
                assert len(tool.action.rules) >= 2
                assert all(sentence in document(tool).description for _, sentence in tool.action.rules)


@pytest.mark.parametrize(
    ("rule", "change", "message"),
    [
        ("reader.debts < 500", "reader.debts += amount", "expected 'test | a sentence"),
        ("reader.age > 3 | Too young.", "reader.debts += amount", "no column 'age'"),
        ("reader.debts < limit | Too much.", "reader.debts += amount", "'limit' is no parameter"),
        ("no loan(reader) | None.", "reader.debts += amount", "no table 'loan'"),
        ("reader.debts < 500 | Too much.", "pay the fine", "expected 'row.column = value'"),
        ("reader.debts < 500 | Too much.", "reader.debts += amount", "expected 12 or more"),
    ],
)
def test_a_bad_desk_is_refused_in_one_line(
    rule: str, change: str, message: str, write_desk: Callable[..., Path]
) -> None:
    path = write_desk(rules=f'["{rule}"]', changes=f'["{change}"]')
    with pytest.raises(BadInput, match=r"library\.yaml") as error:
        read_desk(path)
    assert message in str(error.value) and "\n" not in str(error.value)
