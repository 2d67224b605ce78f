"""Chat templates that reject parts of episodes are detected when loaded and reported in one line; ids are provided."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import eval.environments
import train.logprob_gap
import train.rl_prompts
from env_construction.environment.jsonl import BadInput, run_main
from env_construction.environment.schema import write_environments
from train.policies.chat_templates import TINY_TEMPLATE
from train.policies.local_policies import HfPolicy
from train.policies.prompts import check_feedback, check_template, load_tokenizer, render_prompt
from train.policies.rollout import play

HEAD = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' }}"
BODY = (
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)
SINGLE = (
    "{% if m.tool_calls and m.tool_calls | length != 1 %}{{ raise_exception('Single tool-calls only!') }}{% endif %}"
)
ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
)
NO_SYSTEM = "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ARGUMENTS_AS_TEXT = "{% for c in m.tool_calls or [] %}{{ 'call ' + c.function.arguments }}{% endfor %}"
NINE = "{{ raise_exception('IDs should be alphanumeric strings with length 9!') }}{% endif %}"
CALL_IDS = "{% for c in m.tool_calls or [] %}{% if c.id is not defined or c.id | length != 9 %}" + NINE + "{% endfor %}"
ANSWER_IDS = "{% if m.role == 'tool' and (m['tool_call_id'] is not defined or m.tool_call_id | length != 9) %}" + NINE
SHOWN_IDS = (
    "{% for c in m.tool_calls or [] %}{{ 'call ' ~ c['id'] }}{% endfor %}"
    "{{ 'to ' ~ m.tool_call_id if m.role == 'tool' }}"
)
NO_ANSWERS = HEAD + BODY.replace("{{ m.content or '' }}", "{{ m.content if m.role != 'tool' }}")
FIRST_CALL_ONLY = HEAD + BODY.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")

REFUSED = {
    "single": (HEAD + SINGLE + BODY, "two calls in one turn", "Single tool-calls only!"),
    "alternate": (HEAD + ALTERNATE + BODY, "a call and its answer", "Roles must alternate"),
    "arguments as text": (HEAD + ARGUMENTS_AS_TEXT + BODY, "a call and its answer", "TypeError"),
    "answers left out": (NO_ANSWERS, "a call and its answer", "leaves out 'Answer-1'"),
    "first call only": (FIRST_CALL_ONLY, "two calls in one turn", "leaves out 'Argument-2'"),
    "unknown name": (
        HEAD + "{{ m.content.kind.name }}" + BODY, "a question and a tool", "UndefinedError|has no attribute",
    ),
    "broken syntax": (HEAD + "{% if %}" + BODY, "a question and a tool", "unexpected|Expected"),
    "no tool message": (
        TINY_TEMPLATE.replace("message.role == 'tool'", "false"), "a call and its answer", "'Answer-1'",
    ),
}  # fmt: skip


@pytest.fixture
def with_template(tiny_checkpoint: Path, tmp_path: Path) -> Callable[[str], Path]:
    def make(template: str) -> Path:
        folder = tmp_path / "odd_model"
        shutil.copytree(tiny_checkpoint, folder)
        (folder / "chat_template.jinja").write_text(template)
        return folder

    return make


def run_script(main: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, *flags: object) -> int | str | None:
    monkeypatch.setattr("sys.argv", ["script", *map(str, flags)])
    with pytest.raises(SystemExit) as ended:
        run_main(main)
    return ended.value.code


def last_error(capsys: pytest.CaptureFixture[str]) -> str:
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    [line] = [line for line in errors.splitlines() if line.startswith("error:")]
    return line


@pytest.mark.parametrize("case", REFUSED)
def test_a_template_that_cannot_serve_episodes_is_refused_with_its_own_reason(with_template, case) -> None:
    template, what, reason = REFUSED[case]
    folder = with_template(template)
    with pytest.raises(BadInput, match=f"odd_model cannot be used: with {what}, .*({reason})") as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", ["hf", "rl_prompts", "episodes", "logprob_gap"])
def test_every_entry_point_refuses_it_in_one_line(
    with_template, environments, tmp_path, monkeypatch, capsys, entry
) -> None:
    folder, data, out = with_template(HEAD + SINGLE + BODY), tmp_path / "e.jsonl", tmp_path / "out"
    write_environments(data, environments)
    made = ["--tokenizer", folder, "--out", out, "--rollout-batch", "1"]
    main, flags = {
        "hf": (eval.environments.main, ["--policy", f"hf:{folder}", "--data", data, "--out", out]),
        "rl_prompts": (train.rl_prompts.main, ["--trajectories", data, *made]),
        "episodes": (train.rl_prompts.main, ["--environments", data, *made]),
        "logprob_gap": (train.logprob_gap.main, ["--policy", folder, "--prompts", data]),
    }[entry]
    assert run_script(main, monkeypatch, *flags) == 2
    assert "Single tool-calls only!" in last_error(capsys)
    assert not (out / "results.jsonl").exists() or not (out / "results.jsonl").read_text()


@pytest.mark.parametrize("wanted", [CALL_IDS, ANSWER_IDS, CALL_IDS + ANSWER_IDS])
def test_ids_are_given_to_a_template_that_reads_them(with_template, environments, wanted) -> None:
    tokenizer = load_tokenizer(with_template(HEAD + wanted + BODY))
    check_template(tokenizer, "ids", system=True)
    check_feedback(tokenizer, "ids", False)


def test_ids_name_each_call_and_its_answer_and_stay_the_same_in_a_longer_conversation(with_template) -> None:
    tokenizer = load_tokenizer(with_template(HEAD + SHOWN_IDS + BODY))
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call, call]}
    answer = {"role": "tool", "name": "f", "content": "."}
    short: Sequence[Any] = [{"role": "user", "content": "q"}, turn, answer, answer]
    shown = render_prompt(tokenizer, short, [], False)
    assert [shown.count(f"{word}call0000{n}") for n in (0, 1) for word in ("call ", "to ")] == [1, 1, 1, 1]
    longer = render_prompt(tokenizer, [*short, turn, answer, answer], [], False)
    assert longer.startswith(shown.removesuffix("<|im_start|>assistant\n"))
    assert "to call00003" in longer
    with pytest.raises(BadInput, match="episodes cannot be played"):
        check_feedback(tokenizer, "shows ids", False)


def test_a_template_that_reads_no_ids_gets_none(with_template) -> None:
    """A template that writes a call as a whole would show them to the policy."""
    whole = BODY.replace("c.function | tojson", "c | tojson")
    tokenizer = load_tokenizer(with_template(HEAD + whole))
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert "call0" not in render_prompt(tokenizer, [{"role": "user", "content": "q"}, turn], [], False)


def test_a_system_message_is_checked_where_data_have_one(
    with_template, environments, tmp_path, monkeypatch, capsys
) -> None:
    folder, data = with_template(HEAD + NO_SYSTEM + BODY), tmp_path / "e.jsonl"
    evaluate = ["--policy", f"hf:{folder}", "--data", data, "--max-new-tokens", 4, "--max-turns", 1]
    prompts = ["--environments", data, "--tokenizer", folder, "--rollout-batch", 1, "--out", tmp_path / "p.jsonl"]
    write_environments(data, environments)
    assert run_script(eval.environments.main, monkeypatch, *evaluate, "--out", tmp_path / "plain") == 0
    assert run_script(train.rl_prompts.main, monkeypatch, *prompts) == 0
    system = {"role": "system", "content": "Be kind."}
    write_environments(
        data, [item.model_copy(update={"messages": [system, *item.messages]}) for item in environments[:1]]
    )
    capsys.readouterr()
    for main, flags in (
        (eval.environments.main, [*evaluate, "--out", tmp_path / "system"]),
        (train.rl_prompts.main, prompts),
    ):
        assert run_script(main, monkeypatch, *flags) == 2
        line = last_error(capsys)
        assert "odd_model cannot be used: with a system message" in line and "System role not supported" in line


def test_a_refusal_in_the_middle_of_a_run_is_a_fault_of_its_episode(with_template, environments, sandbox) -> None:
    rare = "{% if 'Fiji' in m.content %}{{ raise_exception('Fiji is too far') }}{% endif %}"
    policy = HfPolicy(with_template(HEAD + rare + BODY), max_new_tokens=4)
    episodes = play(policy, environments, max_turns=1, sandbox=sandbox)
    far = ["Fiji" in json.dumps(environment.messages) for environment in environments]
    assert 0 < sum(far) < len(far)
    assert [episode.outcome == "fault" for episode in episodes] == far
    assert all("Fiji is too far" in episode.fault for episode, gone in zip(episodes, far, strict=True) if gone)


def test_a_tool_document_that_a_template_cannot_show_is_named(
    tiny_checkpoint, environments, tmp_path, monkeypatch, capsys
) -> None:
    tool = environments[0].tools[0].model_copy(update={"parameters": {"type": "object", "properties": ["country"]}})
    data = tmp_path / "e.jsonl"
    write_environments(data, [environments[1], environments[0].model_copy(update={"tools": [tool]})])
    flags = ["--environments", data, "--tokenizer", tiny_checkpoint, "--rollout-batch", 1, "--out", tmp_path / "p"]
    assert run_script(train.rl_prompts.main, monkeypatch, *flags) == 2
    line = last_error(capsys)
    assert f"{data}:2: key 'tools'" in line and "not a JSON Schema" in line
