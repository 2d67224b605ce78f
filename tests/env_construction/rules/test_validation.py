"""Every validation rule finds what it is for, under its name, and passes sound environments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from env_construction.data_statistics import tally
from env_construction.environment.constraints import (
    AnswerFormat,
    Budget,
    Constraint,
    ForbiddenTool,
    MaxCalls,
    Order,
    listed,
)
from env_construction.environment.schema import Environment, GoldCall, SubQuestion, ToolDocument, write_environments
from env_construction.rules.replay import RUNS, gold_orders
from env_construction.rules.validation import REPLAY_RULES, STATIC_RULES, validate_environments
from env_construction.sandbox.tool_sandbox import ToolSandbox
from env_construction.show import describe
from env_construction.validate import judge, keep_valid, tools_load

CAPITAL = (
    'def capital(country):\n    rows = {"Norway": "Oslo", "Chile": "Santiago"}\n    return {"capital": rows[country]}\n'
)
RIVER = 'def river(city):\n    rows = {"Oslo": "Akerselva", "Paris": "Seine"}\n    return {"river": rows[city]}\n'


def _document(name: str, parameter: str) -> ToolDocument:
    schema = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return ToolDocument(name=name, description=f"The {name}.", parameters=schema)


def _sound() -> Environment:
    return Environment(
        messages=[{"role": "user", "content": "Question: Which river flows through the capital of Norway?"}],
        tools=[_document("capital", "country"), _document("river", "city")],
        codes={"capital": CAPITAL, "river": RIVER},
        unsolved_set={"capital": ["Oslo"], "river": ["Akerselva"]},
        answer="Akerselva",
        id="sound",
        scenario="multi_hop",
        sub_questions=[
            SubQuestion(id="q1", question="Capital of Norway?", answer="Oslo", tool="capital"),
            SubQuestion(id="q2", question="River of Oslo?", answer="Akerselva", tool="river", depends_on=["q1"]),
        ],
        gold_plan=[
            GoldCall(sub_question="q1", name="capital", arguments={"country": "Norway"}),
            GoldCall(sub_question="q2", name="river", arguments={"city": "Oslo"}),
        ],
    )


def _broken_schema(environment: Environment) -> None:
    environment.tools[0].parameters["properties"]["country"]["type"] = "text"


def _lost_code(environment: Environment) -> None:
    del environment.codes["river"]


def _reads_a_file(environment: Environment) -> None:
    environment.codes["river"] = 'def river(city):\n    return open("/etc/hostname").read()\n'


def _empty_answer(environment: Environment) -> None:
    environment.unsolved_set["river"] = [""]


def _trivial_answer(environment: Environment) -> None:
    environment.unsolved_set["river"] = ["yes"]
    environment.gold_plan = []


def _given_away(environment: Environment) -> None:
    environment.messages[0]["content"] += " It is the Akerselva, is it not?"


def _no_final_answer(environment: Environment) -> None:
    environment.answer = None


def _no_chain(environment: Environment) -> None:
    environment.sub_questions[1].depends_on = []


def _dependency_in_name_only(environment: Environment) -> None:
    environment.gold_plan[1].arguments = {"city": "Paris"}
    environment.sub_questions[1].answer = "Seine"
    environment.unsolved_set["river"] = ["Seine"]


def _call_without_argument(environment: Environment) -> None:
    environment.gold_plan[0].arguments = {}


def _other_answers_listed(environment: Environment) -> None:
    environment.unsolved_set["river"] = ["Seine"]


def _raises(environment: Environment) -> None:
    environment.codes["river"] = "def river(city):\n    return 1 / 0\n"


def _answers_otherwise(environment: Environment) -> None:
    environment.codes["river"] = RIVER.replace("Akerselva", "Lysakerelva")


def _tells_everything(environment: Environment) -> None:
    environment.codes["capital"] = CAPITAL.replace(
        '"capital": rows[country]', '"capital": rows[country], "river": "Akerselva"'
    )


def _third_tool_tells(environment: Environment) -> None:
    environment.tools.append(_document("guide", "country"))
    environment.codes["guide"] = 'def guide(country):\n    return "Visit Oslo and the Akerselva."\n'


def _ignores_its_argument(environment: Environment) -> None:
    environment.codes["river"] = 'def river(city):\n    return {"river": "Akerselva"}\n'


def _is_random(environment: Environment) -> None:
    environment.codes["river"] = (
        "import time\n\n"
        'def river(city):\n    rows = {"Oslo": "Akerselva"}\n'
        '    return {"river": rows[city], "at": time.perf_counter_ns()}\n'
    )


def _is_slow(environment: Environment) -> None:
    environment.codes["river"] = RIVER.replace("    return", "    import time\n    time.sleep(1.2)\n    return")


def _constrained(*constraints: Constraint, stated: bool = True) -> Callable[[Environment], None]:
    def breaks(environment: Environment) -> None:
        environment.constraints = list(constraints)
        environment.messages[0]["content"] += listed(constraints) if stated else ""

    return breaks


def _two_words_in_one(environment: Environment) -> None:
    _constrained(AnswerFormat(style="words", most_words=1))(environment)
    environment.answer = "the Akerselva"


def _unknown_answer_in_json(environment: Environment) -> None:
    _constrained(AnswerFormat(style="json"))(environment)
    environment.answer = None


BREAKS: dict[str, list[Callable[[Environment], None]]] = {
    "schema_valid": [_broken_schema],
    "names_match_code": [_lost_code],
    "source_is_pure": [_reads_a_file],
    "sub_answers_present": [_empty_answer],
    "sub_answer_not_trivial": [_trivial_answer],
    "sub_answer_not_in_question": [_given_away],
    "answer_present": [_no_final_answer],
    "scenario_shape": [_no_chain],
    "dependency_is_real": [_dependency_in_name_only],
    "gold_call_valid": [_call_without_argument, _other_answers_listed],
    "gold_plan_runs": [_raises],
    "gold_plan_answers": [_answers_otherwise],
    "sub_answer_needs_its_call": [_tells_everything, _third_tool_tells],
    "wrong_call_differs": [_ignores_its_argument],
    "deterministic": [_is_random],
    "calls_are_fast": [_is_slow],
    "constraints_name_tools": [
        _constrained(ForbiddenTool(tool="guide")),
        _constrained(Order(tool="river", after="guide")),
        _constrained(Budget(costs={"river": 1}, total=9)),
    ],
    "constraints_agree": [
        _constrained(MaxCalls(most=2), MaxCalls(most=3)),
        _constrained(Order(tool="river", after="capital"), Order(tool="capital", after="river")),
        _constrained(Order(tool="river", after="river")),
        _constrained(Order(tool="river", after="capital"), ForbiddenTool(tool="capital")),
    ],
    "constraints_are_stated": [_constrained(MaxCalls(most=2), stated=False)],
    "gold_answer_keeps_format": [
        _two_words_in_one,
        _unknown_answer_in_json,
    ],
    "gold_plan_keeps_constraints": [
        _constrained(MaxCalls(most=1)),
        _constrained(ForbiddenTool(tool="river")),
        _constrained(Order(tool="capital", after="river")),
        _constrained(Budget(costs={"capital": 2, "river": 3}, total=4)),
    ],
}


def _rules(environment: Environment, sandbox: ToolSandbox) -> dict[str, bool]:
    [found] = validate_environments([environment], sandbox)
    return {item.rule: item.fatal for item in found}


def test_a_sound_environment_breaks_no_rule(construction_sandbox: ToolSandbox) -> None:
    assert _rules(_sound(), construction_sandbox) == {}
    environment = _sound()
    _constrained(
        MaxCalls(most=2),
        Order(tool="river", after="capital"),
        Budget(costs={"capital": 2, "river": 3}, total=5),
        AnswerFormat(style="capitals"),
    )(environment)
    assert _rules(environment, construction_sandbox) == {}


@pytest.mark.parametrize(
    ("rule", "breaks"), [(rule, breaks) for rule, all_breaks in BREAKS.items() for breaks in all_breaks]
)
def test_a_broken_environment_is_found_under_the_rules_name(
    rule: str, breaks: Callable[[Environment], None], construction_sandbox: ToolSandbox
) -> None:
    environment = _sound()
    breaks(environment)
    found = _rules(environment, construction_sandbox)
    assert rule in found
    assert found[rule] == (rule not in ("sub_answer_not_trivial", "answer_present"))


def test_a_tool_that_confuses_its_answers_fails_the_replay(construction_sandbox: ToolSandbox) -> None:
    """Published matching solves "12" with the call for "4 12", and then nothing is left for the other call."""
    environment = _sound()
    environment.tools = [_document("code", "name")]
    environment.codes = {"code": 'def code(name):\n    return {"a": {"v": "12"}, "b": {"v": "4 12"}}[name]\n'}
    environment.unsolved_set = {"code": ["12", "4 12"]}
    environment.scenario = "parallel_single_hop"
    environment.sub_questions = [
        SubQuestion(id="q1", question="a?", answer="12", tool="code"),
        SubQuestion(id="q2", question="b?", answer="4 12", tool="code"),
    ]
    environment.gold_plan = [
        GoldCall(sub_question="q1", name="code", arguments={"name": "a"}),
        GoldCall(sub_question="q2", name="code", arguments={"name": "b"}),
    ]
    found = _rules(environment, construction_sandbox)
    assert set(found) & {"sub_answer_needs_its_call", "gold_plan_scores_one", "wrong_call_differs"}


def test_nonsensical_records_are_findings_and_not_crashes(construction_sandbox: ToolSandbox) -> None:
    def unknown_step(environment: Environment) -> None:
        environment.gold_plan[0].sub_question = "q9"

    def unknown_dependency(environment: Environment) -> None:
        environment.sub_questions[1].depends_on = ["q9"]

    def odd_required(environment: Environment) -> None:
        environment.tools[0].parameters["required"] = "country"

    def odd_properties(environment: Environment) -> None:
        environment.tools[0].parameters["properties"] = ["country"]

    def odd_schema(environment: Environment) -> None:
        environment.tools[0].parameters["properties"]["country"] = {"minimum": None}

    for breaks in (unknown_step, unknown_dependency, odd_required, odd_properties, odd_schema):
        environment = _sound()
        breaks(environment)
        assert any(_rules(environment, construction_sandbox).values()), breaks.__name__


def test_every_rule_is_tested() -> None:
    rules = {rule.__name__ for rule in (*STATIC_RULES, *REPLAY_RULES)}
    of_states = {"state_is_consistent", "rules_are_stated"}  # tested in ../worlds/test_stateful_worlds.py
    assert rules == set(BREAKS) | {"gold_plan_scores_one"} | of_states
    assert all((rule.__doc__ or "").strip() for rule in (*STATIC_RULES, *REPLAY_RULES))


def test_orders_respect_the_dependencies(built) -> None:
    for environment in built("paper"):
        orders = gold_orders(environment)
        assert len(orders) == RUNS
        depends = {item.id: set(item.depends_on) for item in environment.sub_questions}
        for order in orders:
            done: set[str] = set()
            for call in order:
                assert depends[call.sub_question] <= done
                done.add(call.sub_question)
            assert done == set(depends)


def test_a_file_is_judged_line_by_line(tmp_path, construction_sandbox: ToolSandbox) -> None:
    wrong = _sound()
    wrong.id = "wrong"
    _answers_otherwise(wrong)
    path = tmp_path / "file.jsonl"
    write_environments(path, [_sound(), wrong])
    path.write_text("\n" + path.read_text())
    judged = [(where, environment.id, [item.rule for item in found]) for where, environment, found in judge(path)]
    assert judged == [
        (f"{path}:2", "sound", []),
        (f"{path}:3", "wrong", ["gold_plan_answers", "gold_plan_scores_one"]),
    ]
    assert [environment.id for environment in keep_valid([_sound(), wrong])] == ["sound"]


def test_built_environments_of_every_level_pass_when_read_back(
    built, level: str, construction_sandbox: ToolSandbox
) -> None:
    read = [Environment.from_record(json.loads(json.dumps(item.to_record()))) for item in built(level)]
    assert all(not any(item.fatal for item in found) for found in validate_environments(read, construction_sandbox))


@pytest.mark.parametrize(
    "body",
    [
        "    yield name",
        "    return (x for x in name)",
        "    return lambda: name",
        "    return map(str, name)",
    ],
)
def test_a_tool_that_returns_no_value_is_found(body: str, construction_sandbox: ToolSandbox) -> None:
    document = ToolDocument(
        name="finder",
        description="Finds.",
        parameters={"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    )

    def made(source: str) -> Environment:
        return Environment(messages=[], tools=[document], codes={"finder": source}, unsolved_set={})

    broken, sound, awaited = tools_load(
        [
            made(f"def finder(name):\n{body}"),
            made("def finder(name):\n    return name"),
            made("async def finder(name):\n    return name"),
        ],
        construction_sandbox,
    )
    assert broken is not None and broken.fatal and "which is no value" in broken.message
    assert sound is None and awaited is None


def test_a_gold_call_that_only_echoes_its_argument_is_rejected():
    environment = _sound()
    environment.codes["capital"] = "def capital(country):\n    return country\n"
    environment.gold_plan[0].arguments = {"country": "Oslo"}
    with ToolSandbox(workers=1) as sandbox:
        rules = {finding.rule for finding in validate_environments([environment], sandbox)[0] if finding.fatal}
    assert "gold_plan_scores_one" in rules


def test_a_tool_outside_the_plan_may_have_any_schema(construction_sandbox: ToolSandbox) -> None:
    """Every tool is asked about the plan's entities. No document may end the validation."""
    odd: dict[str, Any] = {
        "true": True,
        "nothing": {},
        "items": {"type": "array", "items": True, "minItems": 2},
        "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]},
        "choice": {"enum": []},
        "constant": {"const": None},
        "types": {"type": ["string", "null"]},
        "reference": {"$ref": "#/$defs/P"},
        "nowhere": {"$ref": "#/$defs/Q"},
        "country": {"type": "string", "pattern": "["},
        "year": {"type": "integer", "minimum": 0.5, "default": "now"},
    }
    environment = _sound()
    parameters = {"type": "object", "properties": odd, "required": list(odd), "$defs": {"P": {"type": "object"}}}
    environment.tools.append(ToolDocument(name="odd", description="Anything.", parameters=parameters))
    environment.codes["odd"] = "def odd(**options):\n    return 'nothing'\n"
    assert _rules(environment, construction_sandbox) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"required": True},
        {"required": ["city"], "properties": {"city": {"enum": {"a": 1}}}},
        {"properties": {"city": True, "unit": False}},
        {"required": ["city"]},
    ],
)
def test_odd_schemas_of_own_files_are_judged_counted_and_shown(
    change: dict[str, Any], tmp_path: Path, construction_sandbox: ToolSandbox
) -> None:
    odd = _sound()
    odd.tools[0].parameters = {"type": "object", **change}
    write_environments(tmp_path / "file.jsonl", [odd])
    assert len(list(judge(tmp_path / "file.jsonl"))) == 1
    assert tally([odd]).rows()
    less = odd.model_copy(update={"codes": {}, "sub_questions": []})
    assert "# this tool has no code" in describe(less, construction_sandbox)
