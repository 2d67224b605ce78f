"""Tool documents: all forms of OpenAI and MCP are read, invalid schemas are named, generated arguments fit."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from env_construction.building.author import Rejected
from env_construction.environment.jsonl import BadInput, write_jsonl
from env_construction.environment.schema import Environment, ToolDocument, read_environments
from env_construction.environment.tool_schema import _plainly_fits, _plainly_valid, fits, schema_problem
from env_construction.rules.tool_rules import check_arguments, check_document
from env_construction.rules.validation import schema_valid
from reward.attacks import ATTACKS
from reward.score import read_gold
from train.collect_trajectories import load_environments
from train.policies.interface import PolicyRequest, RandomPolicy, random_arguments


def record(**function: Any) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "level", **function}}
    return {
        "id": "tank",
        "messages": [{"role": "user", "content": "What is the level of tank 7?"}],
        "tools": json.dumps([tool]),
        "codes": json.dumps({"level": "def level(**options):\n    return {'level': 42}\n"}),
        "unsolved_set": json.dumps({"level": ["42"]}),
        "answer": "42",
    }


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "next": {"$ref": "#/$defs/P"}}, "required": ["x"]}
READ: dict[str, dict[str, Any]] = {
    "no parameters": {"description": "d"},
    "parameters null": {"description": "d", "parameters": None},
    "parameters empty": {"description": "d", "parameters": {}},
    "no properties": {"description": "d", "parameters": {"type": "object"}},
    "no type": {"description": "d", "parameters": {"properties": {"x": {"type": "string"}}}},
    "no description": {"parameters": {"type": "object", "properties": {}}},
    "description null": {"description": None},
    "as MCP": {"description": "d", "inputSchema": of(x={"type": "integer"}), "annotations": {"readOnlyHint": True}},
    "closed": {"parameters": {"type": "object", "additionalProperties": False}},
    "property true": {"parameters": of(x=True)},
    "optional property false": {"parameters": {"type": "object", "properties": {"x": False}}},
    "empty property": {"parameters": of(x={})},
    "items true": {"parameters": of(x={"type": "array", "items": True})},
    "no items": {"parameters": of(x={"type": "array"})},
    "anyOf": {"parameters": of(x={"anyOf": [{"type": "array", "items": True}, {"type": "null"}]})},
    "oneOf": {"parameters": of(x={"oneOf": [{"type": "null"}, {"type": "integer", "minimum": 3}]})},
    "allOf": {"parameters": of(x={"allOf": [of(a={"type": "integer"}), of(b={"type": "boolean"})]})},
    "reference": {"parameters": {**of(x={"$ref": "#/$defs/P"}), "$defs": {"P": POINT}}},
    "reference at the top": {"parameters": {"$ref": "#/$defs/P", "$defs": {"P": POINT}}},
    "definitions": {
        "parameters": {**of(x={"$ref": "#/definitions/a~1b"}), "definitions": {"a/b": {"type": "integer"}}},
    },
    "prefixItems": {
        "parameters": of(
            x={"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False}
        ),
    },
    "items of draft 7": {"parameters": of(x={"type": "array", "items": [{"type": "string"}, {"type": "integer"}]})},
    "const": {"parameters": of(x={"const": "a"})},
    "list of types": {"parameters": of(x={"type": ["null", "integer"], "minimum": 1})},
    "enum with null": {"parameters": of(x={"type": ["string", "null"], "enum": [None, "a"]})},
    "bounds between whole numbers": {"parameters": of(x={"type": "integer", "minimum": 0.5, "maximum": 1.5})},
    "narrow bounds": {"parameters": of(x={"type": "number", "minimum": 0.5, "maximum": 0.9})},
    "open bounds": {"parameters": of(x={"type": "integer", "exclusiveMinimum": 2, "exclusiveMaximum": 4})},
    "far bounds": {"parameters": of(x={"type": "integer", "minimum": 5000}, y={"type": "number", "maximum": -5.5})},
    "multiples": {"parameters": of(x={"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 13})},
    "lengths": {"parameters": of(x={"type": "string", "minLength": 90}, y={"type": "string", "maxLength": 1})},
    "list lengths": {"parameters": of(x={"type": "array", "minItems": 4}, y={"type": "array", "maxItems": 0})},
    "required without property": {
        "parameters": {"type": "object", "required": ["x"], "additionalProperties": {"type": "integer"}},
    },
}  # fmt: skip


@pytest.mark.parametrize("function", READ.values(), ids=READ)
def test_what_openai_and_mcp_allow_is_read_and_played(tmp_path: Path, function: dict[str, Any]) -> None:
    write_jsonl(tmp_path / "a.jsonl", [record(**function)])
    [environment] = load_environments(tmp_path / "a.jsonl")
    assert [environment] == list(read_gold(tmp_path / "a.jsonl", "strict").values())
    [tool] = environment.tools
    assert environment.openai_tools()[0]["function"]["parameters"] == tool.parameters
    assert schema_valid(environment) is None
    for seed in range(12):
        arguments = random_arguments(tool.parameters, environment.question.split(), random.Random(seed))
        assert fits(arguments, tool.parameters, tool.parameters), arguments
        check_arguments(tool, arguments)
    [generation] = RandomPolicy(0).generate([PolicyRequest(environment, "tank", 0, 0, 0)])
    assert '"level"' in generation.text
    assert all(isinstance(attack(environment), str) for attack, _ in ATTACKS.values())


REFUSED: dict[str, tuple[Any, str]] = {
    "required true at the top": ({"type": "object", "required": True}, "required: expected array, got true"),
    "required true inside": (of(x={"type": "string", "required": True}), "properties.x.required: expected array"),
    "minimum null": (of(x={"type": "integer", "minimum": None}), "properties.x.minimum: expected number, got null"),
    "properties null": ({"type": "object", "properties": None}, "properties: expected object, got null"),
    "properties a list": ({"type": "object", "properties": [{"name": "x"}]}, "properties: expected object, got "),
    "property a text": (of(x="a name"), 'properties.x: expected object or boolean, got "a name"'),
    "no such type": (of(x={"type": "str"}), "properties.x.type: 'str' is not valid"),
    "enum a text": (of(x={"enum": "a"}), 'properties.x.enum: expected array, got "a"'),
    "no object": ({"type": "string"}, "type: expected 'object', got \"string\""),
}


@pytest.mark.parametrize(("parameters", "told"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("read", [load_environments, lambda path: read_gold(path, "published")])
def test_an_invalid_schema_is_refused_by_file_line_tool_and_key(
    tmp_path: Path, parameters: Any, told: str, read: Any
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [record(), record(parameters=parameters)])
    with pytest.raises(BadInput) as caught:
        read(tmp_path / "a.jsonl")
    assert "a.jsonl:2: key 'tools': the parameters of 'level' are not a JSON Schema: " + told in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    *_, judged = read_environments(tmp_path / "a.jsonl", check_tools=False)
    finding = schema_valid(judged)
    assert finding is not None and finding.fatal and told in finding.message


@pytest.mark.parametrize("parameters", [True, [], "x"])
def test_parameters_that_are_no_object_are_refused(tmp_path: Path, parameters: Any) -> None:
    write_jsonl(tmp_path / "a.jsonl", [record(parameters=parameters)])
    with pytest.raises(BadInput, match=r"a\.jsonl:1: key 'tools\.0\.parameters': "):
        load_environments(tmp_path / "a.jsonl")


def test_a_schema_that_nothing_fits_is_played_and_ends() -> None:
    loop = {**of(x={"$ref": "#/$defs/P"}), "$defs": {"P": of(x={"$ref": "#/$defs/P"})}}
    endless = (
        of(x={"type": "array", "minItems": 10**9}),
        of(x={"type": "string", "minLength": 10**9}),
        of(x={"type": "number", "minimum": -1e999, "maximum": 1e999}),
        of(x={"type": "integer", "minimum": 1.7e308, "exclusiveMaximum": 1e999}),
        of(x={"type": "integer", "maximum": 10**400}),
    )
    nothing = (of(x={"enum": []}), of(x=False), of(x={"$ref": "#/nowhere"}), of(x={"$ref": "a.json"}), loop)
    for parameters in (*nothing, *endless):
        assert schema_problem(parameters) == ""
        assert "x" in random_arguments(parameters, ["word"], random.Random(0))


def test_a_reference_is_followed_only_in_its_own_document() -> None:
    parameters = {**of(p={"$ref": "#/$defs/P"}), "$defs": {"P": POINT}}
    document = ToolDocument.model_validate({"name": "f", "parameters": parameters})
    check_document(document)
    check_arguments(document, {"p": {"x": 1, "next": {"x": 2}}})
    with pytest.raises(Rejected, match="does not fit"):
        check_arguments(document, {"p": {"x": 1, "next": {"x": "2"}}})
    with pytest.raises(Rejected, match="cannot be applied"):
        outside = {"name": "f", "parameters": of(p={"$ref": "file:///etc/passwd"})}
        check_arguments(ToolDocument.model_validate(outside), {"p": 1})


NAMES = st.sampled_from(["x", "y", "z"])
ODD = (
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.sampled_from(["string", "str", "a"])
    | st.lists(NAMES, max_size=2)
)
SOUP = st.recursive(
    ODD,
    lambda inner: st.dictionaries(
        st.sampled_from(
            ["type", "properties", "required", "items", "enum", "minimum", "minItems", "description", "default",
             "title", "const", "x"]
        ),
        inner | st.dictionaries(NAMES, inner, max_size=2),
        max_size=4,
    ),
    max_leaves=10,
)  # fmt: skip


@given(SOUP)
def test_the_quick_check_never_passes_what_the_metaschema_rejects(schema: Any) -> None:
    if _plainly_valid(schema, 0):
        Draft202012Validator.check_schema(schema)


VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, 0, 1, 1.0, 2.5, -3, "", "a", "1", float("nan"), [], {}, [1]]
)


@given(
    VALUES,
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "number", "boolean", "null", "array", ["integer", "null"]])},
        optional={
            "enum": st.lists(VALUES, max_size=3), "minimum": st.sampled_from([-9, 0, 1.5]),
            "maximum": st.sampled_from([-1, 1, 2.5]), "description": st.just("d"), "minLength": st.just(2),
        },
    ),
)  # fmt: skip
def test_the_quick_check_accepts_only_values_that_fit(value: Any, schema: dict[str, Any]) -> None:
    valid = Draft202012Validator(schema).is_valid(value)
    assert valid or not _plainly_fits(value, schema)
    assert fits(value, schema, of(x=schema)) == valid


@given(SOUP, st.integers(0, 99))
def test_no_document_of_a_benchmark_makes_the_random_policy_raise(schema: Any, seed: int) -> None:
    parameters = {"type": "dict", "properties": {"x": schema}, "required": True, "minimum": None}
    for odd in (parameters, {**parameters, "required": ["x"]}, schema if isinstance(schema, dict) else {}):
        assert isinstance(random_arguments(odd, ["word"], random.Random(seed)), dict)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda properties, needed: {
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if name in needed],
        },
        st.dictionaries(NAMES, inner, max_size=3),
        st.sets(NAMES),
    )


SCHEMAS = st.recursive(
    st.booleans().filter(bool)
    | st.sampled_from(
        [{}, {"type": "string"}, {"type": ["boolean", "null"]}, {"type": "null"}, {"const": 3},
         {"enum": [None, 1, "a"]}]
    )
    | st.builds(
        lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
        st.integers(-500, 500), st.integers(0, 9),
    )
    | st.builds(
        lambda low, span: {"type": "number", "exclusiveMinimum": low, "maximum": low + span},
        st.integers(-500, 500), st.integers(1, 9),
    )
    | st.builds(
        lambda low, span: {"type": "string", "minLength": low, "maxLength": low + span},
        st.integers(0, 40), st.integers(0, 9),
    ),
    lambda inner: _objects(inner)
    | st.builds(
        lambda items, low, span: {"type": "array", "items": items, "minItems": low, "maxItems": low + span},
        inner, st.integers(0, 3), st.integers(0, 3),
    )
    | st.builds(
        lambda first, rest: {"type": "array", "prefixItems": first, "items": rest},
        st.lists(inner, min_size=1, max_size=3), inner | st.just(False),
    )
    | st.builds(lambda option, other: {"anyOf": [option, other]}, inner, inner),
    max_leaves=12,
)  # fmt: skip


@given(_objects(SCHEMAS), st.integers(0, 2**32))
def test_random_arguments_fit_their_schema(schema: dict[str, Any], seed: int) -> None:
    assert schema_problem(schema) == ""
    arguments = random_arguments(schema, ["one", "two", "three"], random.Random(seed))
    Draft202012Validator(schema).validate(arguments)
    environment = Environment.from_record(record(parameters=schema))
    assert environment.tools[0].parameters == schema
