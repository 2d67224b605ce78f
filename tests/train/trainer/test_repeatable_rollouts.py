"""Seeds of requests and the order of groups: they depend on the prompts, never on when something happened."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.trainer.repeatable_rollouts import REPEATABLE_ROLLOUTS, SEEDED_PROMPTS, RequestSeeds


class Sampling:
    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def clone(self) -> Sampling:
        return Sampling(self.seed)


def engine(seed: int) -> Any:
    """An engine that answers with the seed of each request, adapted."""

    class AsyncLLM:
        vllm_config = SimpleNamespace(model_config=SimpleNamespace(seed=seed))

        def generate(self, prompt: Any, sampling_params: Any, request_id: str) -> Any:
            return sampling_params.seed

    module = SimpleNamespace(AsyncLLM=AsyncLLM)
    REPEATABLE_ROLLOUTS["vllm.v1.engine.async_llm"](module)
    return module.AsyncLLM()


PROMPTS = st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=12)


@given(PROMPTS, st.randoms())
def test_the_seeds_of_a_prompt_do_not_depend_on_other_requests(prompts: list[list[int]], rng: random.Random) -> None:
    shuffled = rng.sample(prompts, len(prompts))
    seeds = []
    for order in (prompts, shuffled):
        one = engine(7)
        drawn = [(prompt, one.generate({"prompt_token_ids": prompt}, Sampling(), "")) for prompt in order]
        seeds.append(sorted(drawn))
    assert seeds[0] == seeds[1]


@given(PROMPTS)
def test_no_two_requests_share_a_seed(prompts: list[list[int]]) -> None:
    seeds = RequestSeeds(0)
    drawn = [seeds.next(prompt) for prompt in prompts]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= seed < 2**63 for seed in drawn)


def test_another_engine_seed_gives_other_samples_and_a_given_seed_is_kept() -> None:
    prompt = {"prompt_token_ids": [1, 2]}
    assert engine(1).generate(prompt, Sampling(), "") != engine(2).generate(prompt, Sampling(), "")
    assert engine(1).generate(prompt, Sampling(5), "") == 5
    assert engine(1).generate("a text", Sampling(), "") is None


def test_the_callers_parameters_stay_as_they_are() -> None:
    parameters = Sampling()
    engine(1).generate({"prompt_token_ids": [1]}, parameters, "")
    assert parameters.seed is None


def test_groups_come_in_the_order_of_their_prompts_whichever_ends_first() -> None:
    class SamplesGenerator:
        def _dispatch_prompts_to_vllm(self, prompts: list[str], labels: list[str]) -> list[str]:
            return prompts

        def _generate_vllm(self, prompts: list[str]) -> tuple[list[Any], int, bool]:
            refs = self._dispatch_prompts_to_vllm(prompts, prompts)
            random.Random(0).shuffle(refs := list(refs))
            found = [SimpleNamespace(prompts=[prompt], sample=sample) for prompt in refs for sample in range(2)]
            return found, len(prompts), False

    module = SimpleNamespace(SamplesGenerator=SamplesGenerator)
    REPEATABLE_ROLLOUTS["openrlhf.trainer.ppo_utils.samples_generator"](module)
    prompts = ["d", "a", "c", "a", "b"]
    found, consumed, exhausted = module.SamplesGenerator()._generate_vllm(prompts)
    assert [(item.prompts[0], item.sample) for item in found] == [
        (prompt, sample) for prompt in ["d", "a", "a", "c", "b"] for sample in range(2)
    ]
    assert (consumed, exhausted) == (5, False)


def test_the_order_of_the_prompts_depends_on_the_seed_alone() -> None:
    stateful_dataloader = pytest.importorskip("torchdata.stateful_dataloader")
    torch = pytest.importorskip("torch")

    def prepare_datasets(strategy: Any, tokenizer: Any) -> Any:
        return stateful_dataloader.StatefulDataLoader(range(50), batch_size=1, shuffle=True)

    module = SimpleNamespace(prepare_datasets=prepare_datasets)
    SEEDED_PROMPTS["openrlhf.trainer.ppo_trainer"](module)

    def order(seed: int) -> list[int]:
        torch.rand(seed + 1)  # whatever happened in the process before
        strategy = SimpleNamespace(args=SimpleNamespace(train=SimpleNamespace(seed=seed)))
        return [int(batch[0]) for batch in module.prepare_datasets(strategy, None)]

    assert order(3) == order(3) != order(4)
