"""Drawn constraints: everything else stays as it is, the gold plan keeps them, and they are varied and tight."""

from __future__ import annotations

from collections import Counter

import pytest

from env_construction.building.author_options import make_author
from env_construction.building.environment_builder import BuildConfiguration, build_chunk
from env_construction.environment.constraints import KINDS, AnswerFormat, Budget, ForbiddenTool, MaxCalls, Order
from env_construction.environment.schema import Environment
from env_construction.rules.duplicates import distinct_keys, question_key
from env_construction.sandbox.tool_sandbox import ToolSandbox


def _build(
    author: str, level: str, indices: range, sandbox: ToolSandbox, constraints: bool = True
) -> list[Environment]:
    configuration = BuildConfiguration(author, level, 3, constraints=constraints)
    built = build_chunk(make_author(author), configuration, "train", list(indices), sandbox)
    return [item.environment for item in built]


@pytest.mark.parametrize(
    ("author", "level"), [("facts", "compact"), ("worlds", "medium"), ("worlds-stateful", "compact")]
)
def test_constraints_change_nothing_else(author: str, level: str, construction_sandbox: ToolSandbox) -> None:
    plain = _build(author, level, range(8), construction_sandbox, constraints=False)
    with_them = _build(author, level, range(8), construction_sandbox)
    for before, after in zip(plain, with_them, strict=True):
        assert question_key(before) == question_key(after) and distinct_keys(before) == distinct_keys(after)
        record = after.to_record()
        del record["constraints"]
        record["messages"] = [{"role": "user", "content": after.question_alone}]
        assert record == before.to_record()
    part = _build(author, level, range(5, 8), construction_sandbox)  # an environment depends on its index alone
    assert [item.to_record() for item in part] == [item.to_record() for item in with_them[5:]]


def test_drawn_constraints_are_varied_and_leave_little_to_spare(construction_sandbox: ToolSandbox) -> None:
    environments = _build("facts", "compact", range(40), construction_sandbox)
    kinds = Counter(item.kind for environment in environments for item in environment.constraints)
    assert set(kinds) == set(KINDS)
    assert {len(environment.constraints) for environment in environments} == {1, 2, 3}
    for environment in environments:
        needed = [call.name for call in environment.gold_plan]
        for item in environment.constraints:
            if isinstance(item, MaxCalls):
                assert len(needed) <= item.most <= len(needed) + 2
            elif isinstance(item, Budget):
                assert 0 <= item.total - sum(item.costs[name] for name in needed) <= 2
            elif isinstance(item, ForbiddenTool):
                assert item.tool not in needed
                parts = {tool.name: {tool.name, *tool.parameters["properties"]} for tool in environment.tools}
                words = {name: set("_".join(found).split("_")) for name, found in parts.items()}
                assert any(words[item.tool] & words[name] for name in needed), "like no needed tool"
            elif isinstance(item, Order):
                assert needed.index(item.after) < needed.index(item.tool)
            elif isinstance(item, AnswerFormat) and item.style == "capitals":
                assert environment.answer != (environment.answer or "").upper()
