"""Hold-outs: test has only what the rules name, train and dev have none of it, in questions and in tools."""

from __future__ import annotations

import pytest

from env_construction.building.author_options import known_labels, make_author
from env_construction.building.environment_builder import BuildConfiguration, build_chunk
from env_construction.building.hold_out import HoldOut, Label, check_rules
from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment, Split
from env_construction.facts.relations import BY_NAME, DOMAINS
from env_construction.sandbox.tool_sandbox import ToolSandbox
from env_construction.worlds.domains import catalog


def _built(
    sandbox: ToolSandbox, author: str, split: Split, *rules: str, in_domain_test: bool = False
) -> list[Environment]:
    configuration = BuildConfiguration(author, "medium", 1, hold_out=rules, in_domain_test=in_domain_test)
    built = build_chunk(make_author(author), configuration, split, list(range(8)), sandbox)
    return [item.environment for item in built]


def _values(environments: list[Environment], key: str) -> set[str]:
    """All values of a label, of the question and of the tools."""
    found: set[str] = set()
    for environment in environments:
        for tool in environment.provenance["tools"].values():
            found |= set(tool["relations"]) if key == "relations" else {tool[key]}
        if key == "domain":
            found |= set(environment.provenance["labels"]["domains"])
    return found


@pytest.mark.parametrize(
    ("author", "rules", "key"),
    [
        ("facts", ("domain:chemistry",), "domain"),
        ("facts", ("relation:40%",), "relations"),
        ("worlds", ("domain:medicine", "domain:law"), "domain"),
        ("worlds", ("relation:40%",), "relations"),
        ("worlds-stateful", ("domain:clubs", "domain:finance"), "domain"),
    ],
)
def test_splits_are_disjoint(construction_sandbox, author: str, rules: tuple[str, ...], key: str) -> None:
    train, dev, test = (
        _values(_built(construction_sandbox, author, split, *rules), key) for split in ("train", "dev", "test")
    )
    assert not (train | dev) & test
    if key != "relations":
        assert test <= {rule.split(":")[1] for rule in rules}
    else:
        held = HoldOut(rules)
        labels = (
            [Label("", name, "", relation.family) for name, relation in BY_NAME.items()]
            if author == "facts"
            else [Label("", name, "") for name in known_labels("worlds")["relation"]]
        )
        assert test <= {label.relation for label in labels if held.holds(label)}


@pytest.mark.parametrize("author", ["facts", "worlds"])
def test_an_in_domain_test_has_nothing_that_is_held_out(construction_sandbox, author: str) -> None:
    rule = "relation:40%"
    unseen = _values(_built(construction_sandbox, author, "test", rule), "relations")
    inside = _values(_built(construction_sandbox, author, "test", rule, in_domain_test=True), "relations")
    assert inside
    assert not inside & unseen


def test_a_function_that_is_held_out_is_not_in_train(construction_sandbox) -> None:
    for author, function in (("facts", "relate"), ("worlds", "search")):
        train = _built(construction_sandbox, author, "train", f"function:{function}")
        assert function not in _values(train, "function_class")
        assert function in _values(_built(construction_sandbox, author, "train"), "function_class")


def test_every_tool_has_its_labels(construction_sandbox) -> None:
    for author in ("facts", "worlds", "worlds-stateful"):
        known = known_labels(author)
        for environment in _built(construction_sandbox, author, "train"):
            labels, tools = environment.provenance["labels"], environment.provenance["tools"]
            assert tools.keys() == {tool.name for tool in environment.tools}
            for name, label in tools.items():
                assert label["function_class"] in known.get("function", {"find", "details", "act"})
                assert label["domain"] in known["domain"]
                assert label["relations"] and set(label["relations"]) <= known.get("relation", set(label["relations"]))
                assert label["needed"] == bool(environment.unsolved_set.get(name))
            assert set(labels["domains"]) <= known["domain"]
            assert len(labels["relations"]) == len(labels["function_classes"]) == labels["hops"]
            assert labels["hops"] == len(environment.sub_questions) and labels["tools"] == len(tools)
            assert 1 <= labels["depth"] <= labels["hops"] and labels["description_depth"] >= 0
            assert 0 <= labels.get("distractor_closeness", 0.0) <= 1
            chained = environment.scenario in ("multi_hop", "parallel_multi_hop")
            assert (labels["depth"] > 1) is chained


def test_rules_are_checked_against_the_names_of_the_author() -> None:
    check_rules(["domain:medicine", "relation:40%", "function:search"], known_labels("worlds"))
    assert set(catalog().domains) <= known_labels("worlds")["domain"]
    assert known_labels("facts")["domain"] == set(DOMAINS)
    for rule in ("domain:medicin", "subject:medicine", "domain", "domain:"):
        with pytest.raises(BadInput, match="--hold-out"):
            check_rules([rule], known_labels("worlds"))
    check_rules(["domain:clubs"], known_labels("worlds-stateful"))
    with pytest.raises(BadInput, match="can only hold out a domain"):
        check_rules(["relation:40%"], known_labels("worlds-stateful"))
    with pytest.raises(BadInput, match="no labels"):
        known_labels("llm")


def test_a_share_is_drawn_by_group_and_grows() -> None:
    names = [f"relation_{number}" for number in range(400)]
    held = {
        percent: {name for name in names if HoldOut((f"relation:{percent}%",)).holds(Label("d", name, "f"))}
        for percent in (10, 40)
    }
    assert held[10] < held[40] and 100 < len(held[40]) < 220
    family = {HoldOut(("relation:40%",)).holds(Label("d", name, "f", "one family")) for name in names}
    assert len(family) == 1
