"""The reward as OpenRLHF itself loads and calls it, and the result of its advantage function."""

import asyncio
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from env_construction.environment.jsonl import BadInput
from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox
from reward import openrlhf_reward, scoring
from reward.controls import RewardSettings
from reward.logged_settings import TABLES
from reward.openrlhf_inputs import on_grid, response_of
from reward.openrlhf_reward import reward_func
from reward.rewards import KINDS
from reward.tool_calls import render_call
from train.trainer.devices import has_flash_attention

REPOSITORY = Path(__file__).resolve().parents[2]
REWARD_FILE = REPOSITORY / "reward" / "openrlhf_reward.py"
KEYS = {
    "p",
    "q",
    "fault",
    "sandbox_ms",
    "timeouts",
    "true_reward",
    *(f"kind_{kind}" for kind in KINDS),
    *TABLES,
    "reward_seed",
}
PROMPT = "<|im_start|>user\nü Where is it?<|im_end|>\n<|im_start|>assistant\n"
LABEL = json.dumps(
    {
        "id": "e1",
        "codes": json.dumps({"say": "def say(text):\n    return text\n"}),
        "unsolved_set": json.dumps({"say": ["Paris", "Rome"]}),
        "solve_rate": 0.0,
        "answer": "Lima",
    }
)
PARIS = render_call(ToolCall("say", {"text": "Paris"}))
ROME = render_call(ToolCall("say", {"text": "Rome"}))
# response -> (reward, kind)
RESPONSES = {
    PARIS + "<|im_end|>": (1.0, "calls"),
    PARIS + "\n" + ROME + "<|im_end|>": (4 / 3, "calls"),
    PARIS + PARIS + "<|im_end|>": (2 / 3, "calls"),
    "<|im_end|>": (-0.5, "empty"),
    "<tool_call>\n{": (-0.3, "malformed"),
    "It is Lima.<|im_end|>": (1 / 3, "answer"),
    "I do not know.": (0.0, "other"),
}


def reward_settings(changes: dict[str, str]) -> RewardSettings:
    """The settings of this test session with some changes."""
    return RewardSettings.from_environ({**os.environ, **changes})


@pytest.fixture(scope="module")
def openrlhf_on_this_machine() -> Iterator[None]:
    """OpenRLHF imports flash-attn's compiled part, which not every machine has. This installs stand-ins there."""
    with pytest.MonkeyPatch.context() as patch:
        if not has_flash_attention():
            patch.setitem(sys.modules, "flash_attn_2_cuda", types.ModuleType("flash_attn_2_cuda"))
            patch.setitem(sys.modules, "flash_attn.ops.triton.cross_entropy", None)
        yield


def openrlhf_module(name: str) -> Any:
    return pytest.importorskip(name, reason="OpenRLHF is not installed here with all it imports", exc_type=ImportError)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte level, no merges: decodes to exactly its input, with the chat model's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")


class Engine:
    """The part of a vLLM engine that SingleTurnAgentExecutor uses: it answers each prompt with a given text."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, response: str) -> None:
        self.tokens = tokenizer(response, add_special_tokens=False)["input_ids"]

    async def generate(self, prompt_token_ids: list[int], sampling_params: Any, **kwargs: Any) -> Any:
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=self.tokens, finish_reason="stop", logprobs=None, text="")]
        )


def execute(executor: Any, tokenizer: Any, response: str, label: str = LABEL, max_length: int = 4096) -> dict[str, Any]:
    sampling = SimpleNamespace(max_tokens=1024, logprobs=None)
    return asyncio.run(executor.execute(PROMPT, label, sampling, max_length, tokenizer, Engine(tokenizer, response)))


def test_through_openrlhfs_single_turn_executor(openrlhf_on_this_machine, tokenizer):
    executor = openrlhf_module("openrlhf.utils.agent").SingleTurnAgentExecutor(str(REWARD_FILE))
    for response, (reward, kind) in RESPONSES.items():
        output = execute(executor, tokenizer, response)
        assert output["reward"].item() == on_grid(reward)
        assert output["scores"].item() == min(1.0, max(0.0, on_grid(reward)))
        assert output["extra_logs"].keys() == KEYS
        assert output["extra_logs"][f"kind_{kind}"].item() == 1.0
        assert output["extra_logs"]["fault"].item() == 0.0
        # as OpenRLHF's samples generator does
        assert torch.tensor([output["reward"]]).shape == (1,)
        for value in output["extra_logs"].values():
            assert isinstance(value.flatten()[0].item(), float)


def test_an_unreadable_label_is_a_fault_and_the_sample_continues(openrlhf_on_this_machine, tokenizer):
    executor = openrlhf_module("openrlhf.utils.agent").SingleTurnAgentExecutor(str(REWARD_FILE))
    output = execute(executor, tokenizer, PARIS, label="{broken")
    assert output["reward"].item() == 0.0
    assert output["extra_logs"]["fault"].item() == 1.0
    assert output["extra_logs"].keys() == KEYS


def test_a_prompt_cut_on_the_left_still_finds_its_response(openrlhf_on_this_machine, tokenizer):
    executor = openrlhf_module("openrlhf.utils.agent").SingleTurnAgentExecutor(str(REWARD_FILE))
    length = len(tokenizer(PROMPT)["input_ids"])
    for cut in (1, 7, 15, 20):  # 7 cuts between the two bytes of a letter
        output = execute(executor, tokenizer, PARIS, max_length=1024 + length - cut)
        assert len(output["observation_tokens"]) == length - cut + len(tokenizer(PARIS)["input_ids"])
        assert (output["reward"].item(), output["extra_logs"]["fault"].item()) == (1.0, 0.0)


def test_the_response_in_a_query():
    assert response_of(PROMPT + "R", PROMPT) == "R"
    assert response_of(PROMPT, PROMPT) == ""
    assert response_of(PROMPT + PROMPT, PROMPT) == PROMPT
    assert response_of(PROMPT[9:] + "R", "x" * 5000 + PROMPT) == "R"
    turns = "<|im_start|>user\n5<|im_end|>\n" * 9
    assert response_of(turns[40:] + PROMPT + "R", turns + PROMPT) == "R"
    for query in ("", "R", "another text than the prompt" + PROMPT, PROMPT[:-1]):
        with pytest.raises(BadInput, match="does not start with an end of the prompt"):
            response_of(query, PROMPT)


def attainable_rewards() -> list[float]:
    f1 = {2 * q / (p + 1) for p in range(1, 21) for q in range(p + 1)}
    rest = {q / p for p in range(1, 21) for q in range(p + 1)} | {q * q / p for p in range(1, 13) for q in range(p + 1)}
    return sorted(f1 | rest | {1 / (t + 1) for t in range(13)} | {-0.5, -0.3, 0.0, 0.5})


def advantages(rewards: list[float], group: int, estimator: str) -> torch.Tensor:
    """OpenRLHF's own advantages for groups of rewards, (samples, tokens)."""
    maker_module = openrlhf_module("openrlhf.trainer.ppo_utils.experience_maker")
    experience_module = openrlhf_module("openrlhf.trainer.ppo_utils.experience")
    algo = SimpleNamespace(advantage=SimpleNamespace(estimator=estimator, gamma=1.0, lambd=1.0, no_std_norm=False))
    arguments = SimpleNamespace(
        algo=algo,
        rollout=SimpleNamespace(n_samples_per_prompt=group),
        reward=SimpleNamespace(
            clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None, overlong_penalty_factor=1.0
        ),
    )
    maker = object.__new__(maker_module.RemoteExperienceMaker)
    maker.strategy = SimpleNamespace(args=arguments)
    maker.args = arguments
    maker.advantage_estimator = estimator
    maker.kl_ctl = SimpleNamespace(value=0.0)
    experience = experience_module.Experience(
        index=list(range(len(rewards))),
        rewards=torch.tensor(rewards, dtype=torch.float32),
        action_mask=torch.ones(len(rewards), 3, dtype=torch.long),
        kl=torch.zeros(len(rewards), 3),
        info={},
    )
    return maker.compute_advantages_and_returns([experience])[0].advantages


@pytest.mark.parametrize("group", [2, 4, 8, 16])
def test_a_group_of_equal_rewards_has_no_advantage_in_openrlhf(group, openrlhf_on_this_machine):
    rewards = [on_grid(reward) for reward in attainable_rewards() for _ in range(group)]
    for estimator in ("group_norm", "dr_grpo", "rloo"):
        assert torch.count_nonzero(advantages(rewards, group, estimator)) == 0, estimator


def test_without_rounding_a_group_of_equal_rewards_has_an_advantage(openrlhf_on_this_machine):
    """The problem that rounding avoids. If OpenRLHF fixes it, rounding can be removed."""
    raw = [reward for reward in attainable_rewards() for _ in range(16)]
    assert advantages(raw, 16, "group_norm").abs().max() > 0.5


def test_unequal_rewards_keep_their_advantage(openrlhf_on_this_machine):
    found = advantages([on_grid(r) for r in (2 / 3, 2 / 3, 1.0, 0.0)], 4, "group_norm")[:, -1]
    assert found[2] > found[0] == found[1] > 0 > found[3]


def test_the_grid_is_fine_enough_to_keep_rewards_apart():
    rewards = attainable_rewards()
    assert all(abs(on_grid(reward) - reward) <= 2**-17 for reward in rewards)
    assert len({on_grid(reward) for reward in rewards}) == len(rewards)
    assert all(float(torch.tensor(on_grid(reward), dtype=torch.float32)) == on_grid(reward) for reward in rewards)


def test_many_at_once_and_one_by_one_agree():
    responses = list(RESPONSES)
    together = reward_func([PROMPT + r for r in responses], [PROMPT] * len(responses), [LABEL] * len(responses))
    assert together["rewards"].dtype == torch.float32
    assert together["rewards"].tolist() == [on_grid(reward) for reward, _ in RESPONSES.values()]
    for index, response in enumerate(responses):
        alone = reward_func([PROMPT + response], [PROMPT], [LABEL])
        assert alone["rewards"].tolist() == together["rewards"][index : index + 1].tolist()


def test_sixty_four_threads_as_in_openrlhf():
    responses = list(RESPONSES) * 40
    with ThreadPoolExecutor(64) as pool:
        rewards = list(pool.map(lambda r: reward_func([PROMPT + r], [PROMPT], [LABEL])["rewards"].item(), responses))
    assert rewards == [on_grid(reward) for reward, _ in RESPONSES.values()] * 40


@pytest.mark.parametrize(
    "label",
    [
        "",
        "5",
        "{",
        "[]",
        "{}",
        json.dumps({"codes": "{}", "unsolved_set": '{"a": [5]}'}),
        json.dumps({"codes": 5, "unsolved_set": "{}"}),
        "[" * 100_000,
        None,
        5,
    ],
)
def test_bad_labels_are_faults(label):
    result = reward_func([PROMPT + PARIS, PROMPT + PARIS], [PROMPT, PROMPT], [label, LABEL])
    assert result["rewards"].tolist() == [0.0, 1.0]
    assert result["extra_logs"]["fault"].tolist() == [1.0, 0.0]
    assert result["extra_logs"].keys() == KEYS


def test_a_query_without_its_prompt_is_a_fault():
    result = reward_func(["quite another text" + PARIS], [PROMPT], [LABEL])
    assert (result["rewards"].item(), result["extra_logs"]["fault"].item()) == (0.0, 1.0)


def test_a_broken_sandbox_is_a_fault(monkeypatch):
    closed = ToolSandbox()
    closed.close()
    monkeypatch.setattr(scoring, "shared_sandbox", lambda: closed)
    result = reward_func([PROMPT + PARIS, PROMPT + "It is Lima."], [PROMPT] * 2, [LABEL] * 2)
    assert result["rewards"][0].item() == 0.0
    assert result["extra_logs"]["fault"][0].item() == 1.0


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"FTRL_REWARD_VARIANT": "f1"}, "FTRL_REWARD_VARIANT='f1': expected one of solve_f1"),
        ({"FTRL_REWARD_MATCH": "loose"}, "FTRL_REWARD_MATCH='loose': expected one of published"),
        ({"FTRL_REWARD_CONTROL": "shuffle"}, "FTRL_REWARD_CONTROL: unknown control 'shuffle'"),
        ({"FTRL_REWARD_SEED": "x"}, "FTRL_REWARD_SEED='x': expected a whole number"),
    ],
)
def test_wrong_settings_are_refused(environ, complaint):
    with pytest.raises(BadInput, match=complaint):
        reward_settings(environ)


def test_settings_choose_variant_match_and_control(monkeypatch):
    def rewards(environ: dict[str, str], responses: list[str]) -> list[float]:
        monkeypatch.setattr(openrlhf_reward, "SETTINGS", reward_settings(environ))
        return reward_func([PROMPT + r for r in responses], [PROMPT] * len(responses), [LABEL] * len(responses))[
            "rewards"
        ].tolist()

    twice = PARIS + PARIS
    assert rewards({"FTRL_REWARD_VARIANT": "solve_recall"}, [twice]) == [1.0]
    assert rewards({"FTRL_REWARD_VARIANT": "solve_precision"}, [twice]) == [0.5]
    hidden = f"<think>{PARIS}</think>so"
    assert rewards({}, [hidden]) == [1.0]
    assert rewards({"FTRL_REWARD_MATCH": "strict"}, [hidden]) == [0.0]
    assert rewards({"FTRL_REWARD_CONTROL": "constant"}, [PARIS, "<|im_end|>"]) == [0.5, 0.5]
    assert rewards({"FTRL_REWARD_CONTROL": "shuffled"}, [PARIS, "<|im_end|>"]) == [0.0, 1.0]


def test_the_true_reward_is_logged_under_a_control(monkeypatch):
    monkeypatch.setattr(openrlhf_reward, "SETTINGS", reward_settings({"FTRL_REWARD_CONTROL": "constant"}))
    result = reward_func([PROMPT + PARIS, PROMPT], [PROMPT] * 2, [LABEL, LABEL])
    assert result["extra_logs"]["true_reward"].tolist() == [1.0, -0.5]
    assert result["rewards"].tolist() == [0.5, 0.5]


def test_strict_refuses_a_label_with_empty_gold(monkeypatch):
    monkeypatch.setattr(openrlhf_reward, "SETTINGS", reward_settings({"FTRL_REWARD_MATCH": "strict"}))
    label = json.dumps({"codes": "{}", "unsolved_set": '{"say": [""]}', "id": "e"})
    assert reward_func([PROMPT + PARIS], [PROMPT], [label])["extra_logs"]["fault"].item() == 1.0


def test_loads_by_path_from_any_folder(tmp_path):
    """OpenRLHF executes the file in a Ray worker, which may run outside the repository."""
    code = (
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('reward_func', {str(REWARD_FILE)!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        f"print(module.reward_func([{PROMPT + PARIS!r}], [{PROMPT!r}], [{LABEL!r}])['rewards'].tolist())\n"
    )
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[1.0]", done.stderr
