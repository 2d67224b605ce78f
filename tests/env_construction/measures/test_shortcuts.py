"""A shortcut that pays is found, one that does not is not reported, and chance is the chance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from env_construction.environment.schema import Environment, read_environments, write_environments
from env_construction.measures.intervals import wilson
from env_construction.measures.shortcuts import CHOOSERS, PUBLISHED, audit, choice, words_of
from env_construction.measures.surface_probe import probe
from env_construction.sandbox.tool_sandbox import ToolSandbox
from env_construction.shortcuts import main
from tests.reward.stateful_bank import bank

PUBLISHED_SAMPLE = Path(__file__).resolve().parents[4] / "shared/data/ftrl_test_sample.jsonl"
NEEDED = 'def get_length(river, unit="km"):\n    return {"Orm": 412, "Vell": 87}.get(river, "unknown")\n'
OTHER = "def get_depth(lake):\n    return 7\n"


def environment(number: int, needed_first: bool = True, code: str = NEEDED, more: int = 0) -> Environment:
    """One single-hop environment with three tools. `more`: parameters of the needed tool that the others lack."""
    text = {"type": "string", "description": "A name."}
    extras = {f"extra_{place}": text for place in range(more)}
    unit = {"type": "string", "enum": ["km", "mi"]}
    needed = {
        "name": "get_length",
        "description": "Length of a river.",
        "parameters": {"type": "object", "properties": {"river": text, "unit": unit, **extras}, "required": ["river"]},
    }
    others = [
        {
            "name": name,
            "description": "Depth of a lake.",
            "parameters": {"type": "object", "properties": {"lake": text, "unit": unit}, "required": ["lake"]},
        }
        for name in ("get_depth", "get_color")
    ]
    return Environment.model_validate(
        {
            "messages": [
                {"role": "user", "content": f"Call the tools.\nQuestion: How long is the Orm, number {number}?"}
            ],
            "tools": [needed, *others] if needed_first else [*others, needed],
            "codes": {"get_length": code, "get_depth": OTHER, "get_color": OTHER.replace("depth", "color")},
            "unsolved_set": {"get_length": ["412"]},
            "answer": "412",
            "id": f"e{number}",
            "scenario": "single_hop",
            "sub_questions": [{"id": "q1", "question": "How long?", "answer": "412", "tool": "get_length"}],
            "gold_plan": [{"sub_question": "q1", "name": "get_length", "arguments": {"river": "Orm", "unit": "km"}}],
        }
    )


@pytest.fixture(scope="module")
def sandbox():
    with ToolSandbox(workers=1) as opened:
        yield opened


def rows(sandbox: ToolSandbox, *environments: Environment):
    return {row.policy: row for row in audit(environments, sandbox)}


def test_a_tool_that_always_stands_first_is_found(sandbox: ToolSandbox) -> None:
    found = rows(sandbox, *(environment(number) for number in range(40)))
    assert found["first tool"].score == 1 and found["first tool"].leaks
    assert found["first tool"].chance == pytest.approx(1 / 3)
    assert not found["most required parameters"].leaks  # all tools require one: a tie is worth the chance
    assert found["most required parameters"].score == pytest.approx(1 / 3)


def test_ties_are_worth_the_share_of_needed_tools_among_them() -> None:
    assert choice(environment(1), CHOOSERS["fewest required parameters"]) == (
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
    )
    assert choice(environment(1, more=2), CHOOSERS["fewest parameters"])[0] == 0
    assert choice(environment(1), CHOOSERS["name overlap"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ("nonsense arguments", 'def get_length(river="", unit="km"):\n    return 412\n'),
        ("question as argument", 'def get_length(river, unit="km"):\n    return 412 if "Orm" in river else 0\n'),
        ("dump flags", 'def get_length(river, unit="km", all=False):\n    return [87, 412] if all else 0\n'),
    ],
)
def test_a_tool_that_answers_without_being_asked_is_found(policy: str, code: str, sandbox: ToolSandbox) -> None:
    item = environment(1, code=code)
    item.tools[0].parameters["properties"]["all"] = {"type": "boolean"}
    leaking, honest = rows(sandbox, *[item] * 20)[policy], rows(sandbox, *[environment(1)] * 20)[policy]
    assert leaking.score == 1 and leaking.leaks
    assert honest.score == 0 and not honest.leaks


def test_tools_of_stateful_environments_are_called_with_their_tables(sandbox: ToolSandbox) -> None:
    honest = bank()
    told = {
        **honest.codes,
        "owner_of": "def owner_of(state, account=''):\n    return state['account']['A3']['owner']\n",
    }
    leaking = honest.model_copy(update={"codes": told})
    for item, score in ((honest, 0.0), (leaking, 1.0)):
        found = rows(sandbox, *[item] * 20)["nonsense arguments"]
        assert (found.n, found.score) == (20, score), "one reading tool; transfer writes and is left out"


def test_guessable_answers_and_choices_are_found(sandbox: ToolSandbox) -> None:
    found = rows(sandbox, *(environment(number) for number in range(40)))
    assert found["first enumeration value"].score == 1 and found["first enumeration value"].chance == 0.5
    assert found["first enumeration value"].leaks
    assert found["most frequent answer"].score == found["most frequent answer"].chance == 1
    varied = [environment(number) for number in range(40)]
    for number, item in enumerate(varied):
        item.answer = str(number // 20 * number)  # half of them share one answer
    assert rows(sandbox, *varied)["most frequent answer"].leaks


def test_the_question_as_answer_is_wrong_unless_it_states_the_answer(sandbox: ToolSandbox) -> None:
    stated = environment(412)
    assert rows(sandbox, stated)["question as answer"].score == 1
    assert rows(sandbox, environment(411))["question as answer"].score == 0


def test_words_are_content_words() -> None:
    assert words_of("Which rivers_of the World are given?") == {"river", "world"}


def test_the_probe_finds_a_count_and_not_its_absence() -> None:
    leaking = probe([environment(number, number % 3 == 0, more=2) for number in range(30)])
    assert leaking is not None and leaking.leaks and leaking.accuracy == 1
    assert leaking.base_rate == pytest.approx(2 / 3)
    # without a difference in the document, the place alone tells half of the time at most
    blind = [environment(number) for number in range(30)]
    for item in blind:
        first = item.tools[0].model_copy(deep=True)
        item.tools = [first.model_copy(update={"name": name}) for name in ("get_length", "get_height", "get_weight")]
        item.unsolved_set = {item.tools[int(item.id[1:]) % 3].name: ["412"]}
    result = probe(blind)
    assert result is not None and not result.leaks
    assert probe(blind[:3]) is None


def test_the_command_writes_its_table_and_fails_on_a_leak(tmp_path: Path, monkeypatch, capsys) -> None:
    file, out = tmp_path / "e.jsonl", tmp_path / "shortcuts.json"
    write_environments(file, [environment(number) for number in range(40)])
    monkeypatch.setattr("sys.argv", ["shortcuts", str(file), "--out", str(out)])
    assert main() == 1
    assert "LEAKS" in capsys.readouterr().out
    assert "first tool" in json.loads(out.read_text(encoding="utf-8"))["leaks"]


def test_intervals() -> None:
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.skipif(not PUBLISHED_SAMPLE.exists(), reason="the published sample is not here")
def test_what_is_allowed_is_what_the_published_data_reach(sandbox: ToolSandbox) -> None:
    found = rows(sandbox, *read_environments(PUBLISHED_SAMPLE))
    for policy, share in PUBLISHED.items():
        row = found[policy]
        assert (row.score - row.chance) / (1 - row.chance) == pytest.approx(share, abs=0.01), policy
    assert not any(row.leaks for row in found.values())
