"""Episode mode: the trained tokens are the sampled tokens, and the reward is that of the complete episode."""

import asyncio
import importlib.util
import json
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolCall
from reward.controls import RewardSettings
from reward.logged_settings import NO_CREDIT, readable
from reward.openrlhf_inputs import on_grid
from reward.tool_calls import render_call
from train.policies.interface import OraclePolicy, PolicyRequest
from train.policies.prompts import load_tokenizer, render_prompt
from train.policies.rollout import play
from train.policies.tool_episode import EpisodeSettings, ToolEpisode
from train.rl_prompts import prompt_label
from train.trainer.devices import has_flash_attention

ROOT = Path(__file__).resolve().parents[2]
END = "<|im_end|>"
CAPITAL = render_call(ToolCall("capital_of", {"country": "Fiji"}))
WRONG = render_call(ToolCall("capital_of", {"country": "Mars"}))


@pytest.fixture(scope="module")
def agent() -> Iterator[Any]:
    """train.agent, which imports OpenRLHF; that imports flash-attn's compiled part, which not every machine has."""
    with pytest.MonkeyPatch.context() as patch:
        if not has_flash_attention():
            patch.setitem(sys.modules, "flash_attn_2_cuda", types.ModuleType("flash_attn_2_cuda"))
            patch.setitem(sys.modules, "flash_attn.ops.triton.cross_entropy", None)
        yield pytest.importorskip("train.agent", reason="OpenRLHF is not installed here", exc_type=ImportError)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Any:
    return load_tokenizer(tiny_checkpoint)


class Engine:
    """A fake vLLM engine: plays the given texts, one per turn, and records requests. `cut`: turns cut by length."""

    def __init__(self, tokenizer: Any, texts: list[str], cut: frozenset[int] = frozenset()) -> None:
        self.tokenizer, self.texts, self.cut = tokenizer, texts, cut
        self.asked: list[list[int]] = []
        self.limits: list[int] = []

    async def generate(self, prompt_token_ids: list[int], sampling_params: Any, **_: Any) -> Any:
        turn = len(self.asked)
        self.asked.append(list(prompt_token_ids))
        self.limits.append(sampling_params.max_tokens)
        ids = self.tokenizer(self.texts[turn] + ("" if turn in self.cut else END), add_special_tokens=False)[
            "input_ids"
        ]
        log_probs = [{token: SimpleNamespace(logprob=-0.5)} for token in ids]
        reason = "length" if turn in self.cut else "stop"
        output = SimpleNamespace(token_ids=ids, finish_reason=reason, logprobs=log_probs, text=self.texts[turn])
        return SimpleNamespace(outputs=[output])


def settings(reward: str = "turns", max_turns: int = 20, **environ: str) -> EpisodeSettings:
    return EpisodeSettings(RewardSettings.from_environ({**os.environ, **environ}), reward, max_turns)


def run_episode(
    agent: Any,
    tokenizer: Any,
    environment: Environment,
    texts: list[str],
    chosen: EpisodeSettings | None = None,
    max_length: int = 4096,
    turn_tokens: int = 200,
    label: str | None = None,
    cut: frozenset[int] = frozenset(),
    logprobs: int | None = None,
    credit: str = "",
) -> tuple[dict[str, Any], Engine]:
    prompt = render_prompt(tokenizer, environment.messages, environment.openai_tools(), False)
    engine = Engine(tokenizer, texts, cut)
    sampling = SimpleNamespace(max_tokens=turn_tokens, logprobs=logprobs)
    label = prompt_label(environment, thinking=False) if label is None else label
    executor = agent.AgentExecutor(chosen or settings(), credit)
    return asyncio.run(executor.execute(prompt, label, sampling, max_length, tokenizer, engine)), engine


def logs(output: dict[str, Any]) -> dict[str, float]:
    return {key: value.item() for key, value in output["extra_logs"].items()}


def oracle_texts(environment: Environment, sandbox: Any) -> list[str]:
    [episode] = play(OraclePolicy(), [environment], sandbox=sandbox)
    return [generation.text for generation in episode.generations]


def test_an_episode_reads_as_its_rendered_conversation(agent, tokenizer, environments, sandbox) -> None:
    """This tokenizer's template only appends and writes calls like the oracle, so tokens and rendering agree."""
    for environment in environments:
        texts = oracle_texts(environment, sandbox)
        output, engine = run_episode(agent, tokenizer, environment, texts)
        [episode] = play(OraclePolicy(), [environment], sandbox=sandbox)
        for asked, state in zip(engine.asked, episode.prefixes, strict=True):
            rendered = render_prompt(tokenizer, state.messages, state.openai_tools(), False)
            assert asked == tokenizer(rendered, add_special_tokens=False)["input_ids"]
        assert output["observation_tokens"][: len(engine.asked[-1])] == engine.asked[-1]


def test_action_ranges_are_what_the_policy_wrote_and_nothing_else(agent, tokenizer, environments, sandbox) -> None:
    texts = oracle_texts(environments[3], sandbox)
    output, _ = run_episode(agent, tokenizer, environments[3], texts)
    tokens = output["observation_tokens"]
    written = [tokenizer.decode(tokens[start:end]) for start, end in output["action_ranges"]]
    assert written == [text + END for text in texts]
    assert output["action_ranges"][-1][1] == len(tokens), "no feedback after the last turn"
    assert output["truncated"] is False


def test_what_the_policy_wrote_is_kept_as_it_wrote_it(agent, tokenizer, environments) -> None:
    """Odd spacing inside a call survives: a re-rendered turn would lose it."""
    odd = '<tool_call>  {"arguments":{"country":"Fiji"},   "name":"capital_of"}</tool_call>'
    output, engine = run_episode(agent, tokenizer, environments[0], [odd, "It is Suva."])
    start, end = output["action_ranges"][0]
    assert tokenizer.decode(output["observation_tokens"][start:end]) == odd + END
    assert tokenizer.decode(engine.asked[1][end:]).startswith("\n<|im_start|>user\n<tool_response>\n")
    assert '"capital": "Suva"' in tokenizer.decode(engine.asked[1][end:])
    assert logs(output)["solve_f1"] == 1.0


def test_every_turn_has_the_turns_limit(agent, tokenizer, environments, sandbox) -> None:
    _, engine = run_episode(agent, tokenizer, environments[3], oracle_texts(environments[3], sandbox), turn_tokens=77)
    assert engine.limits == [77] * 4


def test_a_turn_that_was_cut_gets_its_end_with_the_feedback(agent, tokenizer, environments) -> None:
    output, engine = run_episode(agent, tokenizer, environments[0], [CAPITAL, "Suva."], cut=frozenset({0}))
    start, end = output["action_ranges"][0]
    assert tokenizer.decode(output["observation_tokens"][start:end]) == CAPITAL
    assert tokenizer.decode(engine.asked[1][end:]).startswith(END + "\n<|im_start|>user\n")
    assert output["truncated"] is False
    output, _ = run_episode(agent, tokenizer, environments[0], ["Su"], cut=frozenset({0}))
    assert output["truncated"] is True


def test_a_conversation_without_room_for_a_turn_ends_and_is_scored(agent, tokenizer, environments) -> None:
    prompt = render_prompt(tokenizer, environments[2].messages, environments[2].openai_tools(), False)
    room = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) + 100
    output, engine = run_episode(agent, tokenizer, environments[2], [CAPITAL, "?"], max_length=room, turn_tokens=100)
    assert len(engine.asked) == 1
    assert output["action_ranges"][-1][1] == len(output["observation_tokens"]) <= room
    assert logs(output)["outcome_too_long"] == 1.0
    assert output["truncated"] is True
    assert output["reward"] == on_grid(1 / 3)  # one call of two sub-questions: 1, over n + 1


def test_turns_are_limited_as_in_collection(agent, tokenizer, environments) -> None:
    output, engine = run_episode(agent, tokenizer, environments[0], [WRONG] * 5, settings(max_turns=3))
    assert len(engine.asked) == 3
    assert (logs(output)["outcome_max_turns"], logs(output)["turns"], logs(output)["p"]) == (1.0, 3.0, 3.0)


@pytest.mark.parametrize("index", range(4))
def test_scores_are_the_rollouts_own(agent, tokenizer, environments, sandbox, index) -> None:
    texts = [WRONG, *oracle_texts(environments[index], sandbox)]
    [episode] = play(ReplayTexts(texts), [environments[index]], sandbox=sandbox)
    found = logs(run_episode(agent, tokenizer, environments[index], texts)[0])
    assert found["solve_f1"] == pytest.approx(episode.score.solve_f1)
    assert found["solve_r"] == episode.score.solve_r
    assert found["answer_correct"] == float(episode.score.answer_correct)
    rewards = [turn.reward for turn in episode.turns]
    assert found["true_reward"] == pytest.approx(sum(rewards) / (episode.score.sub_questions + 1))


class ReplayTexts:
    name = "texts"

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def generate(self, requests: list[PolicyRequest]) -> list[Any]:
        from train.policies.interface import Generation

        return [Generation(self.texts[request.turn], 1, 1, False) for request in requests]


@pytest.mark.parametrize(
    ("reward", "texts", "expected"),
    [
        ("turns", [CAPITAL, "It is Suva."], 1.0),
        ("turns", [WRONG, CAPITAL, "It is Suva."], 1.0),
        ("turns", [CAPITAL + CAPITAL, "It is Suva."], (2 / 3 + 1) / 2),
        ("turns", ["It is Suva."], 0.25),
        ("turns", [""], -0.25),
        ("solve_f1", [CAPITAL, "It is Suva."], 1.0),
        ("solve_f1", [WRONG, CAPITAL, "No idea."], 2 / 3),
        ("solve_f1", ["It is Suva."], 0.0),
        ("answer", ["It is Suva."], 1.0),
        ("answer", [CAPITAL, "No idea."], 0.0),
        ("answer", [""], 0.0),
    ],
)
def test_reward_of_an_episode(agent, tokenizer, environments, reward, texts, expected) -> None:
    output, _ = run_episode(agent, tokenizer, environments[0], texts, settings(reward))
    assert output["reward"] == on_grid(expected) == float(torch.tensor(output["reward"], dtype=torch.float32))
    assert output["scores"] == min(1.0, max(0.0, output["reward"]))


@pytest.mark.parametrize(
    ("credit", "texts", "expected"),
    [
        ("outcome", [WRONG, CAPITAL, "It is Suva."], [0.0, 0.0, 1.0]),
        ("discounted", [WRONG, CAPITAL, "It is Suva."], [0.0, 1.0, 1.0]),
        ("matchtir-hard", [WRONG, CAPITAL, "It is Suva."], [0.0, 1.0, 1.0]),
        ("matchtir-hard", [CAPITAL + WRONG, CAPITAL, "No idea."], [0.5, 0.0, 0.0]),
        ("matchtir-soft", [CAPITAL, CAPITAL, "It is Suva."], [0.5, 0.5, 1.0]),
        ("turn-reward", [""], [-0.5]),
    ],
)
def test_what_turns_earned_goes_along_with_the_episode(agent, tokenizer, environments, credit, texts, expected) -> None:
    environment = environments[0]
    label = prompt_label(environment, thinking=False, gold_plan=[call.model_dump() for call in environment.gold_plan])
    output, _ = run_episode(agent, tokenizer, environment, texts, label=label, credit=credit)
    assert output["turn_rewards"] == [on_grid(reward) for reward in expected]
    assert len(output["turn_rewards"]) == len(output["action_ranges"])
    assert readable(logs(output))["reward_credit"] == credit


def test_an_unreadable_call_counts_among_the_calls_of_its_turn_in_strict(agent, tokenizer, environments) -> None:
    label = prompt_label(
        environments[0], thinking=False, gold_plan=[call.model_dump() for call in environments[0].gold_plan]
    )
    texts = [CAPITAL + "<tool_call>\n{\n</tool_call>", "It is Suva."]
    for match, expected in (("published", [1.0, 1.0]), ("strict", [0.5, 1.0])):
        chosen = settings(FTRL_REWARD_MATCH=match)
        output, _ = run_episode(agent, tokenizer, environments[0], texts, chosen, label=label, credit="matchtir-hard")
        assert output["turn_rewards"] == expected


def test_a_lost_episode_earned_nothing_and_without_credit_no_turn_does(agent, tokenizer, environments) -> None:
    assert (
        run_episode(agent, tokenizer, environments[0], [CAPITAL], label="{", credit="outcome")[0]["turn_rewards"] == []
    )
    plain, _ = run_episode(agent, tokenizer, environments[0], [CAPITAL, "Suva"])
    assert plain["turn_rewards"] == [] and readable(logs(plain))["reward_credit"] == NO_CREDIT


def test_without_a_final_answer_the_outcome_is_that_all_is_solved(agent, tokenizer, environments) -> None:
    environment = environments[0].model_copy(update={"answer": None})
    for texts, expected in (([CAPITAL, "Done."], 1.0), (["Suva"], 0.0)):
        assert run_episode(agent, tokenizer, environment, texts, settings("answer"))[0]["reward"] == expected


def test_settings_of_the_turns_reach_the_episode(agent, tokenizer, environments) -> None:
    chosen = settings(FTRL_REWARD_VARIANT="solve_precision", FTRL_REWARD_MATCH="strict")
    hidden = f"<think>{CAPITAL}</think>so"
    assert run_episode(agent, tokenizer, environments[0], [hidden], chosen)[0]["reward"] == 0.0
    twice = run_episode(agent, tokenizer, environments[0], [CAPITAL + CAPITAL, "Suva"], chosen)[0]
    assert twice["reward"] == on_grid((0.5 + 1) / 2)
    constant = run_episode(
        agent, tokenizer, environments[0], [CAPITAL, "Suva"], settings(FTRL_REWARD_CONTROL="constant")
    )
    assert (constant[0]["reward"], logs(constant[0])["true_reward"]) == (0.5, 1.0)


@pytest.mark.parametrize(
    "label", ["{", "5", prompt_label(Environment(messages=[], tools=[], codes={}, unsolved_set={}))]
)
def test_a_label_that_is_no_episodes_is_a_fault_and_the_sample_goes_on(agent, tokenizer, environments, label) -> None:
    output, engine = run_episode(agent, tokenizer, environments[0], [CAPITAL], label=label)
    assert (output["reward"], logs(output)["fault"], len(engine.asked)) == (0.0, 1.0, 1)
    good, _ = run_episode(agent, tokenizer, environments[0], [CAPITAL, "Suva"])
    assert output["extra_logs"].keys() == good["extra_logs"].keys()


def test_a_broken_sandbox_is_a_fault_and_no_models_fault(agent, tokenizer, environments, monkeypatch) -> None:
    from env_construction.sandbox.tool_sandbox import ToolSandbox
    from reward import scoring

    closed = ToolSandbox()
    closed.close()
    monkeypatch.setattr(scoring, "shared_sandbox", lambda: closed)
    output, _ = run_episode(
        agent, tokenizer, environments[0], [CAPITAL, "Suva"], settings(FTRL_REWARD_CONTROL="constant")
    )
    assert (output["reward"], logs(output)["fault"]) == (0.0, 1.0)


def test_log_probabilities_stand_where_the_policy_wrote(agent, tokenizer, environments) -> None:
    output, _ = run_episode(agent, tokenizer, environments[0], [CAPITAL, "It is Suva."], logprobs=1)
    marks = [value != 0.0 for value in output["rollout_log_probs"]]
    inside = [any(start <= i < end for start, end in output["action_ranges"]) for i in range(len(marks))]
    assert marks == inside
    assert run_episode(agent, tokenizer, environments[0], [CAPITAL, "x"])[0]["rollout_log_probs"] is None


def test_openrlhf_makes_a_sample_of_it(agent, tokenizer, environments) -> None:
    """Its own generator turns the response into an experience: one reward, and a mask over every turn."""
    generator = pytest.importorskip("openrlhf.trainer.ppo_utils.samples_generator", exc_type=ImportError)
    output, _ = run_episode(agent, tokenizer, environments[0], [WRONG, CAPITAL, "It is Suva."])
    maker = object.__new__(generator.SamplesGenerator)
    sample = maker._process_response_into_experience(output, max_len=4096)
    assert sample.action_mask.sum().item() == sum(end - start for start, end in output["action_ranges"])
    assert sample.rewards.tolist() == [1.0]
    assert sample.info["turns"].tolist() == [3.0]


def test_sixteen_episodes_at_once_do_not_meet(agent, tokenizer, environments, sandbox) -> None:
    texts = [oracle_texts(environment, sandbox) for environment in environments]

    async def everything() -> list[dict[str, Any]]:
        executor = agent.AgentExecutor(settings("solve_f1"))
        sampling = SimpleNamespace(max_tokens=200, logprobs=None)
        return await asyncio.gather(
            *(
                executor.execute(
                    render_prompt(tokenizer, environments[i % 4].messages, environments[i % 4].openai_tools(), False),
                    prompt_label(environments[i % 4], thinking=False), sampling, 4096, tokenizer,
                    Engine(tokenizer, texts[i % 4]),
                )
                for i in range(16)
            )
        )  # fmt: skip

    assert [output["reward"] for output in asyncio.run(everything())] == [1.0] * 16


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"FTRL_EPISODE_REWARD": ""}, "FTRL_EPISODE_REWARD not set in this process: training has no default reward"),
        ({"FTRL_EPISODE_REWARD": "sum"}, "FTRL_EPISODE_REWARD='sum': expected one of turns, solve_f1, answer"),
        ({"FTRL_EPISODE_MAX_TURNS": "0"}, "FTRL_EPISODE_MAX_TURNS='0': expected a whole number above 0"),
        ({"FTRL_REWARD_MATCH": "loose"}, "FTRL_REWARD_MATCH"),
    ],
)
def test_wrong_settings_are_refused(environ, complaint) -> None:
    with pytest.raises(BadInput, match=complaint):
        EpisodeSettings.from_environ({**os.environ, "FTRL_EPISODE_REWARD": "turns", **environ})


def test_label_for_prefixes_is_refused_with_what_to_do(environments) -> None:
    with pytest.raises(BadInput, match=r"train\.rl_prompts --environments"):
        ToolEpisode.from_label(prompt_label(environments[0]), settings())


def test_loads_as_openrlhf_loads_it(agent, monkeypatch) -> None:
    """By its path, under a name that no import knows, as OpenRLHF's rollout process does."""
    monkeypatch.setenv("FTRL_EPISODE_REWARD", "answer")
    spec = importlib.util.spec_from_file_location("agent_module", ROOT / "train" / "agent.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.AgentExecutor().settings.reward == "answer"


def test_labels_are_json_with_the_mode(environments) -> None:
    assert json.loads(prompt_label(environments[0], thinking=True))["thinking"] is True
