"""The hf policy: a batch says what one prompt at a time says, samples follow their seeds, limits are reported."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from env_construction.jsonl import BadInput
from env_construction.tool_sandbox import ToolCall
from reward.scoring import advance, score_turn
from reward.tool_calls import render_call
from train.local_policies import HfPolicy, length_batches
from train.packed_decoding import Buffers, PrefixStore, complete_batch, use_packed_attention
from train.policies import PolicyRequest, load_policy


def hf(folder: Any, **options: Any) -> HfPolicy:
    return HfPolicy(folder, **{"max_new_tokens": 12, "device": "cpu", **options})


def requests_of(environments, seeds=(0,)) -> list[PolicyRequest]:
    return [
        PolicyRequest(environment, environment.id, trial, 0, 1000 * trial + place)
        for trial in seeds
        for place, environment in enumerate(environments)
    ]


@pytest.fixture(scope="module")
def reference(tiny_checkpoint):
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()


def test_greedy_batch_equals_transformers_generate(tiny_checkpoint, reference, environments) -> None:
    policy = hf(tiny_checkpoint)
    requests = requests_of(environments)
    prompts = [policy.prompt_ids(request) for request in requests]
    assert len({len(prompt) for prompt in prompts}) > 1
    found = policy.complete(prompts, [12] * len(prompts), requests)
    for prompt, output in zip(prompts, found, strict=True):
        expected = reference.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=sorted(policy.stop_ids)
        )[0, len(prompt) :].tolist()
        assert output == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batch_size_changes_nothing(tiny_checkpoint, environments, temperature) -> None:
    requests = requests_of(environments, seeds=range(5))
    results = [hf(tiny_checkpoint, temperature=temperature, batch_size=size).generate(requests) for size in (1, 3, 64)]
    assert results[0] == results[1] == results[2]


def test_sample_follows_its_seed_not_its_place(tiny_checkpoint, environments) -> None:
    requests = requests_of(environments, seeds=range(3))
    forward = hf(tiny_checkpoint, temperature=1.0).generate(requests)
    backward = hf(tiny_checkpoint, temperature=1.0).generate(requests[::-1])[::-1]
    assert forward == backward
    assert len({generation.text for generation in forward[:: len(environments)]}) > 1


def test_samples_have_the_softmax_distribution(tiny_checkpoint) -> None:
    policy = hf(tiny_checkpoint, temperature=2.0)
    logits = torch.tensor([[0.0, 2.0, 4.0, -1000.0]])
    expected = torch.softmax(logits[0] / 2.0, -1)
    streams = [random.Random(seed) for seed in range(20000)]
    drawn = policy._choose(streams, logits.expand(20000, -1), list(range(20000)))
    shares = torch.bincount(torch.tensor(drawn), minlength=4) / 20000
    assert torch.allclose(shares, expected, atol=0.012)
    assert shares[3] == 0


def test_next_turn_from_the_stored_prefix_equals_a_fresh_computation(tiny_checkpoint, environments, sandbox) -> None:
    warm = hf(tiny_checkpoint)
    states = []
    for request in requests_of(environments):
        state = request.environment
        text = render_call(ToolCall("capital_of", {"country": "Fiji"}))
        states.append(advance(state, score_turn(state, text, sandbox=sandbox)))
    warm.generate(requests_of(environments))
    shared, _ = warm.store.longest_prefix((states[0].id, 0), warm.prompt_ids(requests_of(states)[0]))
    assert shared > 50
    assert warm.generate(requests_of(states)) == hf(tiny_checkpoint).generate(requests_of(states))


def test_changed_prompt_of_the_same_episode_uses_only_what_is_shared(tiny_checkpoint, environments) -> None:
    policy = hf(tiny_checkpoint)
    first = requests_of(environments)[0]
    policy.generate([first])
    changed = first.environment.model_copy(update={"messages": [{"role": "user", "content": "Something else?"}]})
    other = PolicyRequest(changed, first.case_id, 0, 0, 0)
    assert policy.generate([other]) == hf(tiny_checkpoint).generate([other])


def test_end_of_turn_is_cut_and_the_limit_is_reported(tiny_checkpoint, environments) -> None:
    policy = hf(tiny_checkpoint)
    request = requests_of(environments)[0]
    [free] = policy.generate([request])
    assert free.truncated
    assert free.tokens == 12
    output = policy.complete([policy.prompt_ids(request)], [12], [request])[0]
    policy.stop_ids = frozenset({output[4]})
    [stopped] = policy.generate([request])
    end = output.index(output[4]) + 1
    assert (stopped.truncated, stopped.tokens) == (False, end)
    assert stopped.text == policy.tokenizer.decode(output[: end - 1])


def test_too_long_prompt_is_reported_and_the_others_are_played(tiny_checkpoint, environments) -> None:
    requests = requests_of(environments)
    lengths = [len(hf(tiny_checkpoint).prompt_ids(request)) for request in requests]
    found = hf(tiny_checkpoint, max_prompt_tokens=max(lengths) - 1).generate(requests)
    assert [generation.too_long for generation in found] == [length == max(lengths) for length in lengths]
    assert [generation.prompt_tokens for generation in found] == lengths
    assert all(generation.tokens for generation in found if not generation.too_long)


def test_context_bounds_what_is_generated(tiny_checkpoint, environments) -> None:
    policy = hf(tiny_checkpoint)
    request = requests_of(environments)[0]
    policy.context = len(policy.prompt_ids(request)) + 3
    [generation] = policy.generate([request])
    assert (generation.tokens, generation.truncated) == (3, True)


def test_folder_alone_means_hf(tiny_checkpoint) -> None:
    assert load_policy(str(tiny_checkpoint), device="cpu").name == f"hf:{tiny_checkpoint}"


def test_folder_without_weights_is_refused(tiny_checkpoint, tmp_path) -> None:
    for file in tiny_checkpoint.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(BadInput, match="expected a causal language model's checkpoint"):
        hf(tmp_path)


def test_sliding_window_model_is_refused_not_computed_wrongly(tiny_checkpoint) -> None:
    config = AutoConfig.from_pretrained(tiny_checkpoint)
    config.layer_types = ["full_attention", "sliding_attention"]
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(BadInput, match=r"sliding_attention.*use vllm:"):
        use_packed_attention(model, "DIR")


def test_what_memory_held_before_cannot_leak_into_a_batch(tiny_checkpoint, environments) -> None:
    """Reused buffers hold former batches: only what a sequence wrote itself may count."""
    policy = hf(tiny_checkpoint)
    requests = requests_of(environments)
    clean = policy.generate(requests)
    with torch.inference_mode():
        for flat in policy.buffers._flat.values():
            flat.fill_(1e4)
    policy.store = PrefixStore(1 << 20)
    assert policy.generate(requests) == clean


def test_prefix_store_keeps_within_its_bytes_and_drops_the_oldest() -> None:
    def layers(tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(torch.zeros(1, tokens, 2), torch.zeros(1, tokens, 2))]

    store = PrefixStore(max_bytes=3 * 10 * 16)
    for key in "abc":
        store.put(key, list(range(10)), layers(10))
    store.longest_prefix("a", [0])
    store.put("d", list(range(10)), layers(10))
    assert [store.longest_prefix(key, [0, 1, 9])[0] for key in "abcd"] == [2, 0, 2, 2]
    store.put("e", list(range(100)), layers(100))
    assert store.longest_prefix("e", [0])[0] == 0


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 8), st.integers(1, 120))
def test_length_batches_hold_every_index_once_within_the_limits(lengths, batch_size, max_tokens) -> None:
    batches = length_batches(lengths, batch_size, max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= max_tokens


def test_sequences_of_different_ends_leave_the_batch_one_by_one(tiny_checkpoint, reference) -> None:
    policy = hf(tiny_checkpoint)
    generator = random.Random(2)
    prompts = [[generator.randrange(300) for _ in range(length)] for length in (3, 40, 7, 90, 1, 12, 33)]
    rooms = [1, 9, 30, 4, 17, 2, 25]
    greedy = lambda logits, rows: logits.argmax(-1).tolist()  # noqa: E731
    outputs = complete_batch(policy.model, prompts, rooms, greedy, frozenset(), Buffers())
    assert [len(output) for output in outputs] == rooms
    with torch.inference_mode():
        for prompt, output in zip(prompts, outputs, strict=True):
            logits = reference(input_ids=torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
            assert logits.argmax(-1).tolist() == output
