"""Prompts are rendered once, by the model's own template, and never cut or mixed up."""

import json
import shutil

import pytest
from tokenizers import normalizers

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment
from reward.scoring import advance, score_turn
from train.policies.chat_templates import CHATML_TEMPLATE, TINY_TEMPLATE
from train.policies.interface import OraclePolicy, PolicyRequest
from train.policies.prompts import (
    check_feedback,
    dropped_when_rendered_again,
    feedback_text,
    has_thinking,
    load_tokenizer,
    render_prompt,
    require_thinking,
    template_sha256,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return load_tokenizer(tiny_checkpoint)


@pytest.mark.parametrize(("thinking", "opened"), [(True, ""), (False, "<think>\n\n</think>\n\n")])
def test_prompt_holds_question_and_tools_and_opens_the_assistants_turn(
    tokenizer, environments, thinking, opened
) -> None:
    environment = environments[0]
    prompt = render_prompt(tokenizer, environment.messages, environment.openai_tools(), thinking)
    assert environment.question in prompt
    assert all(tool.name in prompt and tool.description in prompt for tool in environment.tools)
    assert prompt.endswith(f"<|im_start|>assistant\n{opened}")


DECOMPOSED = "Bogota\u0301, \u1100\u1161\u11a8, a\u0323\u0302, \u212b; composed: Bogot\u00e1"


def test_a_tokenizer_that_composes_letters_decodes_to_its_prompt_and_to_the_same_tokens(
    tiny_checkpoint, environments
) -> None:
    """Else the reward finds no response in a query (Qwen's tokenizers normalize to NFC)."""
    composing = load_tokenizer(tiny_checkpoint)
    composing.backend_tokenizer.normalizer = normalizers.NFC()
    messages = [{"role": "user", "content": DECOMPOSED}]
    prompt = render_prompt(composing, messages, environments[0].openai_tools(), False)
    ids = composing(prompt, add_special_tokens=False)["input_ids"]
    assert composing.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == prompt
    assert "Bogot\u00e1, \uac01, \u1ead, \u00c5; composed: Bogot\u00e1" in prompt
    as_it_was = prompt.replace("Bogot\u00e1, \uac01, \u1ead, \u00c5", DECOMPOSED.partition(";")[0])
    assert composing(as_it_was, add_special_tokens=False)["input_ids"] == ids


@pytest.mark.parametrize("normalizer", [None, normalizers.Sequence([normalizers.Replace(" ", "_"), normalizers.NFC()])])
def test_other_tokenizers_see_the_text_as_it_is(tiny_checkpoint, environments, normalizer) -> None:
    plain = load_tokenizer(tiny_checkpoint)
    if normalizer is not None:
        plain.backend_tokenizer.normalizer = normalizer
    assert DECOMPOSED in render_prompt(plain, [{"role": "user", "content": DECOMPOSED}], [], False)


OWN_TEMPLATES = pytest.mark.parametrize(
    ("template", "thinking"),
    [(TINY_TEMPLATE, False), (TINY_TEMPLATE, True), (CHATML_TEMPLATE, False)],
    ids=["own", "own-thinking", "chatml"],
)


def oracle_turn(state: Environment, turn: int, thinking: bool) -> str:
    [generation] = OraclePolicy().generate([PolicyRequest(state, state.id, 0, turn, 0)])
    return f"<think>\nPlan {turn}.\n</think>\n\n{generation.text}" if thinking else generation.text


@OWN_TEMPLATES
def test_longer_conversation_only_appends(tiny_checkpoint, template, thinking, environments, sandbox) -> None:
    tokenizer = load_tokenizer(tiny_checkpoint)
    tokenizer.chat_template = template
    state = environments[3]
    previous = render_prompt(tokenizer, state.messages, state.openai_tools(), thinking)
    for turn in range(3):
        text = oracle_turn(state, turn, thinking)
        state = advance(state, score_turn(state, text, sandbox=sandbox))
        prompt = render_prompt(tokenizer, state.messages, state.openai_tools(), thinking)
        assert prompt.startswith(previous + text)
        assert len(prompt) > len(previous)
        previous = prompt


@OWN_TEMPLATES
def test_feedback_is_the_end_of_the_longer_rendering(
    tiny_checkpoint, template, thinking, environments, sandbox
) -> None:
    tokenizer = load_tokenizer(tiny_checkpoint)
    tokenizer.chat_template = template
    state = environments[3]
    for turn in range(3):
        text = oracle_turn(state, turn, thinking)
        before, state = state, advance(state, score_turn(state, text, sandbox=sandbox))
        feedback = feedback_text(tokenizer, state.messages[len(before.messages) + 1 :], thinking)
        opened = render_prompt(tokenizer, before.messages, state.openai_tools(), thinking)
        assert opened + text + feedback == render_prompt(tokenizer, state.messages, state.openai_tools(), thinking)
    check_feedback(tokenizer, "tiny", thinking)
    assert dropped_when_rendered_again(tokenizer, thinking) == ""


def test_a_second_question_drops_old_thinking_as_qwen3_does(tiny_checkpoint) -> None:
    tokenizer = load_tokenizer(tiny_checkpoint)
    first = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1", "reasoning_content": "Old plan."},
    ]
    again = [*first, {"role": "user", "content": "Two?"}]
    assert "Old plan." in render_prompt(tokenizer, first, [], True)
    assert "<think>" not in render_prompt(tokenizer, again, [], True)
    assert render_prompt(tokenizer, again, [], False).count("<think>") == 1


def test_template_whose_feedback_depends_on_the_past_is_refused(tiny_checkpoint) -> None:
    tokenizer = load_tokenizer(tiny_checkpoint)
    tokenizer.chat_template += "{{ messages[1].tool_calls | length if messages[1].tool_calls }}"
    with pytest.raises(BadInput, match="episodes cannot be played"):
        check_feedback(tokenizer, "odd", False)
    tokenizer.chat_template = "{% for message in messages %}{{ message.role }}{% endfor %}"
    with pytest.raises(BadInput, match="does not show an assistant's content"):
        check_feedback(tokenizer, "odd", False)


def test_no_tools_is_no_tool_section(tokenizer) -> None:
    assert "<tools>" not in render_prompt(tokenizer, [{"role": "user", "content": "hi"}], [], False)


def test_lone_surrogate_is_replaced_so_that_the_prompt_can_be_tokenized(tokenizer) -> None:
    prompt = render_prompt(tokenizer, [{"role": "user", "content": "a \ud800 b"}], [], False)
    assert "a ? b" in prompt
    assert tokenizer(prompt)["input_ids"]


def test_thinking_is_refused_where_the_template_has_none(tiny_checkpoint) -> None:
    tokenizer = load_tokenizer(tiny_checkpoint)
    tokenizer.chat_template = CHATML_TEMPLATE
    assert not has_thinking(tokenizer)
    require_thinking(tokenizer, "tiny", False)
    with pytest.raises(BadInput, match="tiny has no thinking mode"):
        require_thinking(tokenizer, "tiny", True)


def test_thinking_is_passed_to_a_template_that_knows_it(tiny_checkpoint) -> None:
    tokenizer = load_tokenizer(tiny_checkpoint)
    tokenizer.chat_template = "{{ 'on' if enable_thinking else 'off' }}"
    assert has_thinking(tokenizer)
    asked = [{"role": "user", "content": "hi"}]
    assert render_prompt(tokenizer, asked, [], True) == "on"
    assert render_prompt(tokenizer, asked, [], False) == "off"


def test_hash_follows_the_template(tiny_checkpoint) -> None:
    tokenizer, other = load_tokenizer(tiny_checkpoint), load_tokenizer(tiny_checkpoint)
    assert template_sha256(tokenizer) == template_sha256(other)
    other.chat_template += " "
    assert template_sha256(tokenizer) != template_sha256(other)


def test_folder_without_tokenizer_or_template_is_refused(tiny_checkpoint, tmp_path) -> None:
    with pytest.raises(BadInput, match="expected a model folder with a tokenizer"):
        load_tokenizer(tmp_path)
    bare = tmp_path / "bare"
    shutil.copytree(tiny_checkpoint, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(BadInput, match="no chat template"):
        load_tokenizer(bare)


def test_a_template_without_room_for_tools_is_replaced_or_refused(tiny_checkpoint, environments, tmp_path) -> None:
    """SmolLM2-Instruct's own template says nothing of tools: a policy would be trained on questions alone."""
    folder = tmp_path / "no_tools"
    shutil.copytree(tiny_checkpoint, folder)
    turn = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(turn)
    state = environments[0]
    prompt = render_prompt(load_tokenizer(folder), state.messages, state.openai_tools(), False)
    assert all(json.dumps(tool.as_openai(), ensure_ascii=False) in prompt for tool in state.tools)
    assert prompt.endswith("<|im_start|>assistant\n")
    (folder / "chat_template.jinja").write_text(turn.replace("<|im_start|>", "[INST]").replace("<|im_end|>", "[/INST]"))
    with pytest.raises(BadInput, match="no room for tools"):
        load_tokenizer(folder)
