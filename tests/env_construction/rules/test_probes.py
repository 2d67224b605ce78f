"""Every probe rule finds the tool that it is for, and passes an honest one that looks like it."""

from __future__ import annotations

from typing import Any

import pytest

from env_construction.environment.schema import Environment, GoldCall, SubQuestion, ToolDocument
from env_construction.rules.finding import Finding
from env_construction.rules.probe_rules import LEAST_ENTITIES, PROBE_RULES
from env_construction.rules.probes import known_names, may_vary
from env_construction.rules.validation import validate_environments
from env_construction.sandbox.execution import OTHER_SURROUNDINGS
from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox

PROPERTIES: dict[str, Any] = {
    "country": {"type": "string"},
    "detailed": {"type": "boolean", "default": False},
    "order": {"type": "string", "enum": ["plain", "sorted"]},
    "label": {"type": "string"},
}
TABLE = 'rows = {"Norway": "Oslo", "Chile": "Santiago", "Ghana": "Accra"}'


def _asks_capital(
    body: str, gold: bool = True, answer: str = "Oslo", properties: dict[str, Any] = PROPERTIES
) -> Environment:
    """An environment of one tool whose function has this body."""
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    signature = ", ".join([next(iter(properties)), *(f"{name}=None" for name in list(properties)[1:])])
    asked = SubQuestion(id="q1", question="Capital of Norway?", answer=answer, tool="capital")
    call = GoldCall(sub_question="q1", name="capital", arguments={next(iter(properties)): "Norway"})
    return Environment(
        messages=[{"role": "user", "content": "Question: What is the capital of Norway?"}],
        tools=[ToolDocument(name="capital", description="The capital.", parameters=parameters)],
        codes={"capital": f"def capital({signature}):\n{lines}"},
        unsolved_set={"capital": [answer]},
        answer=answer,
        scenario="single_hop",
        sub_questions=[asked] if gold else [],
        gold_plan=[call] if gold else [],
    )


HONEST = f"{TABLE}\nif country not in rows:\n    return {{'error': 'unknown country ' + str(country)}}\n"
# rule -> pairs of (what breaks it, what looks like it and is honest)
PAIRS: dict[str, list[tuple[str, str]]] = {
    "neutral_call_tells_nothing": [
        (f"{TABLE}\nreturn rows.get(country, 'Oslo')", HONEST + "return rows[country]"),
        (f"{TABLE}\nreturn [v for k, v in rows.items() if (country or '') in k]", HONEST + "return [rows[country]]"),
    ],
    "options_tell_nothing": [
        (
            f"{TABLE}\nif detailed:\n    return rows\nreturn rows.get(country, 'unknown')",
            HONEST + "return rows[country]",
        ),
        (
            f"{TABLE}\nif order == 'sorted':\n    return sorted(rows.values())\nreturn rows.get(country, 'unknown')",
            HONEST + "return {'capital': rows[country], 'all': sorted(rows.values()) if detailed else None}",
        ),
    ],
    "argument_is_not_echoed": [
        (
            f"{TABLE}\nreturn {{'asked': country, 'capital': rows.get(country)}}",
            HONEST + "return {country: rows[country]}",
        ),
        (
            HONEST + "return {'capital': rows[country], 'label': label}",
            HONEST + "if label:\n    return {'error': 'no such label: ' + label}\nreturn rows[country]",
        ),
        (
            f"{TABLE}\nreturn rows.get(country, 'The capital of ' + str(country))",
            f"{TABLE}\nreturn rows.get(country, 'No capital is known of ' + str(country))",
        ),
    ],
    "several_entities_known": [
        ("if country == 'Norway':\n    return 'Oslo'\nreturn 'unknown'", HONEST + "return rows[country]"),
        ("return {'Norway': 'Oslo'}[country]", HONEST + "return rows[country]"),
        (
            "rows = [{'name': 'Norway', 'capital': 'Oslo'}, {'name': 'Chile', 'capital': ''}]\n"
            "return next(row for row in rows if row['name'] == country and row['capital'])['capital']",
            "rows = [('Norway', 'Oslo'), ('Chile', 'Santiago')]\nreturn dict(rows)[country]",
        ),
    ],
    "same_on_another_day": [
        (
            f"import datetime\n{TABLE}\nreturn [rows[country], datetime.date.today().year - 1814]",
            f"import datetime\n{TABLE}\nreturn [rows[country], datetime.date(1814, 5, 17).isoformat()]",
        ),
        (
            f"{TABLE}\nreturn [rows[country], list(set(['sea', 'fjord', 'fell', 'ice']))]",
            f"{TABLE}\nreturn [rows[country], sorted(set(['sea', 'fjord', 'fell', 'ice']))]",
        ),
        (
            f"import time\n{TABLE}\nreturn rows[country] + time.strftime(' (%Y)')",
            f"import time\n{TABLE}\nif time.time() < 0:\n    return 'too early'\nreturn rows[country]",
        ),
        (f"{TABLE}\nreturn [rows[country], hash(country) % 1000]", f"{TABLE}\nreturn [rows[country], len(country)]"),
    ],
}


def _broken(environment: Environment, sandbox: ToolSandbox) -> list[Finding]:
    names = {rule.__name__ for rule in PROBE_RULES}
    return [found for found in validate_environments([environment], sandbox)[0] if found.rule in names]


@pytest.mark.parametrize(
    ("rule", "bad", "honest"), [(rule, bad, honest) for rule, pairs in PAIRS.items() for bad, honest in pairs]
)
def test_a_rule_finds_its_tool_and_passes_the_honest_look_alike(
    rule: str, bad: str, honest: str, construction_sandbox: ToolSandbox
) -> None:
    found = {item.rule: item.fatal for item in _broken(_asks_capital(bad), construction_sandbox)}
    assert found.get(rule) is True
    assert _broken(_asks_capital(honest), construction_sandbox) == []


@pytest.mark.parametrize("rule", ["neutral_call_tells_nothing", "options_tell_nothing", "argument_is_not_echoed"])
def test_data_without_a_gold_plan_is_flagged_and_not_rejected(rule: str, construction_sandbox: ToolSandbox) -> None:
    bad, honest = PAIRS[rule][0]
    assert {item.rule: item.fatal for item in _broken(_asks_capital(bad, gold=False), construction_sandbox)}[
        rule
    ] is False
    assert _broken(_asks_capital(honest, gold=False), construction_sandbox) == []


def test_the_date_is_found_without_a_gold_plan_too(construction_sandbox: ToolSandbox) -> None:
    dated = _asks_capital("import datetime\nreturn str(datetime.datetime.now().date())", gold=False)
    assert [item.rule for item in _broken(dated, construction_sandbox)] == ["same_on_another_day"]


def test_a_calculator_and_a_tool_of_choices_are_no_offenders(construction_sandbox: ToolSandbox) -> None:
    """A calculator repeats a number that it is given, and a tool without texts answers by its choices alone."""
    calculator = _asks_capital("return sum(float(part) for part in country.split('+'))", answer="42.0")
    calculator.gold_plan[0].arguments = {"country": "40 + 2"}
    choice = _asks_capital("return {'Norway': 'Oslo', 'Chile': 'Santiago'}[country]")
    choice.tools[0].parameters["properties"]["country"]["enum"] = ["Norway", "Chile"]
    for environment in (calculator, choice):
        assert _broken(environment, construction_sandbox) == []


def test_every_probe_rule_is_tested() -> None:
    assert {rule.__name__ for rule in PROBE_RULES} == set(PAIRS) and LEAST_ENTITIES > 1
    assert all((rule.__doc__ or "").strip() for rule in PROBE_RULES)


def test_built_environments_break_no_probe_rule(built, level: str, construction_sandbox: ToolSandbox) -> None:
    assert [_broken(environment, construction_sandbox) for environment in built(level)] == [[]] * 24


def test_other_surroundings_have_other_dates_everywhere_and_another_order_of_sets(
    construction_sandbox: ToolSandbox,
) -> None:
    source = (
        "def ask():\n    import datetime, time\n    now = datetime.datetime.now\n"
        "    return [now().year, datetime.date.today().year, datetime.datetime.today().year, datetime.datetime.utcnow().year,\n"
        "        now(datetime.timezone.utc).year, time.localtime().tm_year, time.localtime(None).tm_year, time.gmtime().tm_year,\n"
        "        int(time.strftime('%Y')), int(time.ctime()[-4:]), int(time.asctime()[-4:]),\n"
        "        time.gmtime(time.time()).tm_year, time.gmtime(time.time_ns() // 10**9).tm_year]\n"
    )
    order = "def order():\n    return list({'sea', 'fjord', 'fell', 'ice', 'lake'})\n"
    sandboxes = [construction_sandbox, *construction_sandbox.other_surroundings()]
    years, orders = set(), set()
    for sandbox in sandboxes:
        asked, ordered = sandbox.run({"ask": source, "order": order}, [ToolCall("ask", {}), ToolCall("order", {})])
        assert asked.ok, asked
        told = set(asked.output.strip("[]").split(", "))
        assert len(told) == 1, asked.output
        years |= told
        orders.add(ordered.output)
    assert len(years) == len(sandboxes) == len(OTHER_SURROUNDINGS) + 1
    assert len(orders) > 1


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('rows = {"Peru": {"x": "1"}, "Chile": {"x": "2"}}', ("Chile",)),
        ('rows = [("Peru", "Lima"), ("Chile", "Santiago")]', ("Chile",)),
        ('rows = [{"name": "peru"}, {"name": "Chile"}]', ("Chile",)),
        ('x = 1 if a == "Peru" else 2 if a == "Chile" else 3', ("Chile",)),
        ('rows = {"Peru": "Lima"}', ()),
        ('rows = "Peru;Lima"', None),
    ],
)
def test_other_names_of_a_tools_table_are_found_in_its_source(source: str, names: tuple[str, ...] | None) -> None:
    assert known_names(source, "Peru") == names


@pytest.mark.parametrize(
    ("source", "varies"),
    [
        ("def f(a):\n    return {'x': 1}[a]", False),
        ("def f(a):\n    return sorted(a)[0] - 1", False),
        ("def f(a):\n    import math\n    return a", True),
        ("def f(a):\n    return list({'a', 'b'})", True),
        ("def f(a, b):\n    return list(a & b)", True),
        ("def f(a, b):\n    return list(a.items() - b.items())", True),
        ("def f(a):\n    return hash(a)", True),
    ],
)
def test_only_code_without_imports_and_sets_is_spared_the_other_days(source: str, varies: bool) -> None:
    assert may_vary(source) is varies
