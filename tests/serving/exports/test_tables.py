"""Data for other trainers: it loads unchanged, and its reward functions return the scorer's exact rewards."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import load_dataset

from env_construction.environment.jsonl import BadInput
from env_construction.environment.matching import MATCHES
from env_construction.environment.schema import Environment, write_environments
from reward.tool_calls import parse_turn
from serving import trl_reward, verl_reward
from serving.episodes.recorded import turn_text
from serving.exports.labels import LABEL_REWARDS, LabelSettings, label_of
from serving.exports.tables import READERS, prompt_messages, sft_row_for
from tests.serving.recorded_episodes import RAW, SCRIPTED, digits, episodes, expected, raw_episodes, texts_of


def messages_of(texts: list[str]) -> list[dict]:
    """A conversation in a trainer's format: the model's turns, each followed by a tool message."""
    return [
        message
        for text in texts
        for message in ({"role": "assistant", "content": text}, {"role": "tool", "content": "out"})
    ]


KINDS = [(match, reward) for match in MATCHES for reward in LABEL_REWARDS]


@pytest.mark.parametrize(("match", "reward"), KINDS)
def test_rewards_of_trl_and_verl_equal_the_scorers_to_the_last_digit(match, reward, played, sandbox):
    settings, seed = LabelSettings("solve_f1", match, reward), KINDS.index((match, reward))
    scripted = episodes(played, SCRIPTED // len(KINDS), seed)
    recorded = [(environment, texts_of(turns)) for environment, turns in scripted]
    recorded += raw_episodes(played, RAW // len(KINDS), seed)
    recorded = [(environment, texts) for environment, texts in recorded if texts]
    labels = [label_of(environment, settings) for environment, _ in recorded]
    wanted = [
        expected(environment, texts[:1] if reward == "turn" else texts, match, sandbox)
        for environment, texts in recorded
    ]
    wanted = [item["turns"][0]["reward"] if reward == "turn" else item["rewards"][reward] for item in wanted]
    conversations = [messages_of(texts) for _, texts in recorded]
    found = trl_reward.reward_func([None] * len(labels), conversations, labels)
    assert digits(found) == digits(wanted)
    between = "<|im_end|>\n<|im_start|>user\n<tool_response>\nout\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    for label, (_, texts), reward_wanted in zip(labels, recorded, wanted, strict=True):
        assert digits(verl_reward.compute_score("d", between.join(texts), label)["score"]) == digits(reward_wanted)


def test_verl_splits_a_multi_turn_response_with_and_without_special_tokens():
    for end, begin in (("<|im_end|>", "<|im_start|>"), ("", "")):
        tools = "<tool_response>\na\n</tool_response>\n<tool_response>\nb\n</tool_response>"
        text = f"one{end}\n{begin}user\n{tools}{end}\n{begin}assistant\ntwo"
        assert verl_reward.turns_of(text) == ["one", "two"]
    assert verl_reward.turns_of("user\nassistant\n") == ["user\nassistant\n"]


def test_calls_in_fields_are_parsed_like_calls_in_text():
    for match in MATCHES:
        for arguments in ({"country": "</tool_call>"}, '{"country": "</tool_call>"}'):
            message = {
                "content": "so",
                "reasoning_content": "hm",
                "tool_calls": [{"function": {"name": "a", "arguments": arguments}}],
            }
            [call] = parse_turn(turn_text(message), match).calls
            assert (call.name, call.arguments) == ("a", {"country": "</tool_call>"})
        broken = {"tool_calls": [{"function": {"name": "a", "arguments": "{oops"}}]}
        assert parse_turn(turn_text(broken), match).malformed


def test_a_foreign_label_is_rejected(environments):
    for label in ("", "{}", json.dumps({"settings": {"variant": "x", "match": "strict", "reward": "turn"}})):
        with pytest.raises(BadInput, match="label"):
            trl_reward.reward_func([None], ["text"], [label])


@pytest.fixture
def export(run_script) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(kind: str, data: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
        return run_script("serving.export", "--to", kind, "--data", data, "--out", out, *options)

    return run


@pytest.fixture
def data(environments: list[Environment], tmp_path: Path) -> Path:
    write_environments(tmp_path / "env.jsonl", environments)
    return tmp_path / "env.jsonl"


@pytest.mark.parametrize("kind", ["trl", "verl"])
def test_prompts_load_with_messages_tools_and_a_working_label(export, kind, data, environments, tmp_path):
    assert export(kind, data, tmp_path / "out").returncode == 0
    rows = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["test"]
    assert len(rows) == 4
    for row, environment in zip(rows, environments, strict=True):
        assert row["prompt"] == prompt_messages(environment)
        assert all(tool.name in row["prompt"][0]["content"] for tool in environment.tools)
        loaded = (json.loads(row[key]) if kind == "verl" else row[key] for key in ("messages", "tools"))
        assert list(loaded) == [environment.messages, environment.openai_tools()]
        label = row["label"] if kind == "trl" else row["reward_model"]["ground_truth"]
        assert verl_reward.compute_score("", f"The answer is {environment.answer}.", label)["score"] == 1 / (
            environment.unsolved_count + 1
        )


def test_prefixes_of_trajectories_contain_their_state(export, run_script, data, environments, tmp_path):
    collected = ["--environments", data, "--policy", "oracle", "--out", tmp_path / "t"]
    assert run_script("train.collect_trajectories", *collected).returncode == 0
    file = ["--trajectories", str(tmp_path / "t/trajectories.jsonl")]
    assert export("trl", data, tmp_path / "out", *file).returncode == 0
    rows = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["test"]
    states = [(row["id"], len(row["messages"]), json.loads(row["label"])["solve_rate"]) for row in rows]
    assert (
        states == sorted(states, key=lambda state: [s[0] for s in states].index(state[0]))
        and len(states) == 4 + 1 + 1 + 2 + 3
    )
    last = [row for row in rows if row["id"] == environments[-1].id][-1]
    assert last["prompt"][-1] == {"role": "tool", "content": "7737002"}
    assert export("sft", data, tmp_path / "sft", *file, "--min-solve-f1", "1.0", "--answer-correct").returncode == 0
    assert len(load_dataset(str(tmp_path / "sft"), cache_dir=str(tmp_path / "cache"))["test"]) == 4


@pytest.mark.parametrize("reader", READERS)
def test_conversations_load_as_they_were_played(export, reader, data, environments, tmp_path):
    assert export("sft", data, tmp_path / "out", "--reader", reader).returncode == 0
    rows = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["test"]
    for row, environment in zip(rows, environments, strict=True):
        assert (row["tools"] if reader == "trl" else json.loads(row["tools"])) == environment.openai_tools()
        assert calls_of(row["messages"]) == [
            {"name": call.name, "arguments": call.arguments} for call in environment.gold_plan
        ]
        assert row["solve_f1"] == 1.0 and row["answer_correct"] and row["source"] == "oracle"


def calls_of(messages: list[dict]) -> list[dict]:
    """The calls of a conversation in the format of any reader."""
    calls = [call["function"] for message in messages for call in message.get("tool_calls") or ()]
    for message in messages:
        if message["role"] == "function_call":
            calls += json.loads(message["content"].removeprefix("<tool_call>").removesuffix("</tool_call>"))
    return calls


def test_a_text_that_llama_factory_would_parse_as_a_call_is_skipped():
    call = {"function": {"name": "a", "arguments": {"x": "</tool_call>"}}}
    row = {"tools": [], "messages": [{"role": "assistant", "content": "so", "tool_calls": [call]}]}
    [message] = sft_row_for("llama-factory", row)["messages"]
    assert message["role"] == "function_call" and message["content"].startswith("so\n<tool_call>[")
    assert message["content"].count("</tool_call>") == 1 and "\\u003c/tool_call>" in message["content"]
    row["messages"][0]["content"] = "I write <tool_call>"
    assert sft_row_for("llama-factory", row) is None and sft_row_for("trl", row) == row


def test_an_existing_folder_and_an_empty_export_are_one_line_errors(export, data, environments, tmp_path):
    write_environments(data, [item.model_copy(update={"gold_plan": []}) for item in environments])
    for out, words in ((tmp_path, "expected a new folder"), (tmp_path / "out", "no rows to export")):
        said = export("sft", data, out)
        assert said.returncode == 2 and words in said.stderr and said.stderr.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_options_that_would_do_nothing_and_other_trajectories_are_refused(
    export, run_script, data, environments, tmp_path
):
    collected = ["--environments", data, "--policy", "oracle", "--out", tmp_path / "t"]
    assert run_script("train.collect_trajectories", *collected).returncode == 0
    file = ["--trajectories", str(tmp_path / "t/trajectories.jsonl")]
    write_environments(data, environments[:1])
    for kind, options, words in (
        ("trl", ["--min-solve-f1", "1.0"], "only valid with --to sft"),
        ("verl", ["--answer-correct"], "only valid with --to sft"),
        ("trl", file, "is not in --data"),
        ("sft", file, "pass the environments that the trajectories were collected in"),
    ):
        said = export(kind, data, tmp_path / "out", *options)
        assert said.returncode == 2 and words in said.stderr
