"""The hf policy: a batch says what one prompt at a time says, samples follow their seeds, limits are reported."""

import random
from collections import deque
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from env_construction.environment.jsonl import BadInput
from env_construction.sandbox.tool_sandbox import ToolCall
from reward.scoring import advance, score_turn
from reward.tool_calls import render_call
from train.policies.interface import PolicyRequest
from train.policies.local_policies import HfPolicy
from train.policies.packed_decoding import (
    Continuation,
    PackedDecoder,
    PrefixStore,
    choose_tokens,
    length_blocks,
    use_packed_attention,
)
from train.policies.rollout import play
from train.policies.specs import WORKERS_VARIABLE


def hf(folder: Any, **options: Any) -> HfPolicy:
    return HfPolicy(folder, **{"max_new_tokens": 12, "device": "cpu", "workers": 1, **options})


def requests_of(environments, seeds=(0,)) -> list[PolicyRequest]:
    return [
        PolicyRequest(environment, environment.id, trial, 0, 1000 * trial + place)
        for trial in seeds
        for place, environment in enumerate(environments)
    ]


@pytest.fixture(scope="module")
def reference(tiny_checkpoint):
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()


def decoder(model: Any, **options: Any) -> PackedDecoder:
    store = options.pop("store", PrefixStore(1 << 24))
    return PackedDecoder(model, store, **{"rows": 8, "token_bytes": 256, "max_bytes": 1 << 30, **options})


def decode(model: Any, prompts: list[list[int]], rooms: list[int], **options: Any) -> list[list[int]]:
    """All prompts through one decoder, handed out in the portions that it asks for."""
    waiting = deque(
        Continuation(place, prompt, room, random.Random(place))
        for place, (prompt, room) in enumerate(zip(prompts, rooms, strict=True))
    )
    outputs: dict[int, list[int]] = {}

    def exchange(finished: list[Continuation], room: int) -> list[Continuation]:
        outputs.update({item.ticket: item.output for item in finished})
        return [waiting.popleft() for _ in range(min(room, len(waiting)))]

    decoder(model, **options).run(exchange)
    return [outputs[place] for place in range(len(prompts))]


def packed(folder: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    use_packed_attention(model, "tiny")
    return model


def random_prompts(lengths: list[int], seed: int = 2) -> list[list[int]]:
    generator = random.Random(seed)
    return [[generator.randrange(300) for _ in range(length)] for length in lengths]


LENGTHS = [3, 40, 7, 90, 1, 12, 33, 5, 61, 2, 18, 44]
ROOMS = [1, 9, 30, 4, 17, 2, 25, 30, 1, 12, 8, 5]


@pytest.mark.parametrize(
    "options",
    [
        {"rows": 1},
        {"rows": 3},
        {"rows": 5, "refill_below": 1.0},
        {"rows": 12, "refill_below": 0.1},
        {"rows": 12, "max_bytes": 256 * 64 * 2},
        {"rows": 12, "max_bytes": 1},
    ],
)
def test_every_sequence_is_the_models_own_greedy_continuation(tiny_checkpoint, reference, options) -> None:
    """However sequences join and leave: each token is the argmax of the plain model on all before it."""
    prompts = random_prompts(LENGTHS)
    outputs = decode(packed(tiny_checkpoint), prompts, ROOMS, **options)
    assert [len(output) for output in outputs] == ROOMS
    with torch.inference_mode():
        for prompt, output in zip(prompts, outputs, strict=True):
            logits = reference(input_ids=torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
            assert logits.argmax(-1).tolist() == output


def test_cache_stays_within_its_memory(tiny_checkpoint) -> None:
    model = packed(tiny_checkpoint)
    config = model.config
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    small = decoder(model, rows=12, token_bytes=token_bytes, max_bytes=token_bytes * 64 * 3)
    seen = []
    waiting = deque(
        Continuation(i, prompt, 8, random.Random(i)) for i, prompt in enumerate(random_prompts([10] * 9 + [50]))
    )

    def exchange(finished: list[Continuation], room: int) -> list[Continuation]:
        seen.extend(finished)
        return [waiting.popleft() for _ in range(min(room, len(waiting)))]

    small.run(exchange)
    assert len(seen) == 10
    assert sum(tensor.nbytes for tensor in small.cache._keys + small.cache._values) <= small.max_bytes


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


def test_samples_have_the_softmax_distribution() -> None:
    logits = torch.tensor([[0.0, 2.0, 4.0, -1000.0]])
    drawn = choose_tokens(logits.expand(20000, -1), 2.0, [random.Random(seed) for seed in range(20000)])
    shares = torch.bincount(torch.tensor(drawn), minlength=4) / 20000
    assert torch.allclose(shares, torch.softmax(logits[0] / 2.0, -1), atol=0.012)
    assert shares[3] == 0


def test_next_turn_from_the_stored_prefix_equals_a_fresh_computation(tiny_checkpoint, environments, sandbox) -> None:
    warm = hf(tiny_checkpoint)
    states = []
    for request in requests_of(environments):
        state = request.environment
        text = render_call(ToolCall("capital_of", {"country": "Fiji"}))
        states.append(advance(state, score_turn(state, text, sandbox=sandbox)))
    warm.generate(requests_of(environments))
    shared, _ = warm.decoders[0].store.longest_prefix((states[0].id, 0), warm.prompt_ids(requests_of(states)[0]))
    assert shared > 50
    assert warm.generate(requests_of(states)) == hf(tiny_checkpoint).generate(requests_of(states))


class Conversations:
    """Twelve episodes of four turns; each turn's prompt is all that was before and ten tokens more."""

    def __init__(self) -> None:
        prompts = enumerate(random_prompts([60] * 12))
        self.new = deque(Continuation(place, prompt, 5, random.Random(place), place) for place, prompt in prompts)
        self.under_way: deque[Continuation] = deque()
        self.asked: list[int] = []

    def exchange(self, finished: list[Continuation], room: int) -> list[Continuation]:
        for item in finished:
            if self.asked.count(item.ticket) < 4:
                prompt = item.prompt + item.output + list(range(10))
                self.under_way.append(Continuation(item.ticket, prompt, 5, item.draws, item.key))
        while len(self.under_way) < room and self.new:
            self.under_way.append(self.new.popleft())
        chosen = [self.under_way.popleft() for _ in range(min(room, len(self.under_way)))]
        self.asked += [item.ticket for item in chosen]
        return chosen


@pytest.mark.parametrize("fitting", [1, 3, 12])
def test_little_memory_takes_fewer_episodes_at_once_and_computes_no_token_twice(tiny_checkpoint, fitting) -> None:
    model, conversations = packed(tiny_checkpoint), Conversations()
    config = model.config
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    memory = token_bytes * 128 * fitting
    small = decoder(model, rows=12, token_bytes=token_bytes, max_bytes=memory, store=PrefixStore(memory))
    passes: list[int] = []
    small._pass = lambda ids, *rest, **named: (  # type: ignore[method-assign]
        passes.append(len(ids)),
        PackedDecoder._pass(small, ids, *rest, **named),
    )[1]
    small.run(conversations.exchange)
    assert sorted(conversations.asked) == sorted([*range(12)] * 4)
    assert len(set(conversations.asked[: 2 * fitting])) == fitting
    # the first prompt, four outputs whose last token is computed with what follows, and ten tokens thrice
    assert sum(passes) == 12 * (60 + 4 * 4 + 3 * 11)


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
    [output] = decode(policy.model, [policy.prompt_ids(request)], [12])
    policy.stop_ids = policy.decoders[0].stop_ids = frozenset({output[4]})
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
    """The cache's memory holds former batches: only what a sequence wrote itself may count."""
    policy = hf(tiny_checkpoint)
    requests = requests_of(environments)
    clean = policy.generate(requests)
    with torch.inference_mode():
        for key, value in zip(policy.decoders[0].cache._keys, policy.decoders[0].cache._values, strict=True):
            key.fill_(float("nan"))  # their memory is never cleared
            value.fill_(1e4)
    policy.decoders[0].store = PrefixStore(1 << 20)
    assert policy.generate(requests) == clean


def test_streamed_rollout_equals_a_rollout_in_lockstep(tiny_checkpoint, environments, sandbox) -> None:
    class Lockstep:
        name = "lockstep"

        def __init__(self, policy: HfPolicy) -> None:
            self.generate = policy.generate

    options = {"trials": 6, "max_turns": 3, "sandbox": sandbox, "seed": 3}
    streamed = play(hf(tiny_checkpoint, temperature=1.5, batch_size=5), environments, **options)
    lockstep = play(Lockstep(hf(tiny_checkpoint, temperature=1.5)), environments, **options)  # type: ignore[arg-type]
    assert [episode.generations for episode in streamed] == [episode.generations for episode in lockstep]
    assert [episode.score for episode in streamed] == [episode.score for episode in lockstep]


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_the_episodes_and_change_nothing(tiny_checkpoint, environments, sandbox, workers) -> None:
    options = {"trials": 5, "max_turns": 3, "sandbox": sandbox, "seed": 3}
    alone = play(hf(tiny_checkpoint, temperature=1.5), environments, **options)
    seen: list[tuple[str, int]] = []
    policy = hf(tiny_checkpoint, temperature=1.5, workers=workers)
    stream, streamed = policy.stream, []
    policy.stream = lambda exchange: (streamed.append(exchange), stream(exchange))[1]
    shared = play(policy, environments, on_episode=lambda e: seen.append((e.id, e.trial)), **options)
    assert [episode.generations for episode in shared] == [episode.generations for episode in alone]
    assert sorted(seen) == sorted((episode.id, episode.trial) for episode in alone)
    assert len(streamed) == workers


def test_failure_in_one_worker_is_not_swallowed_and_the_policy_stays_usable(
    tiny_checkpoint, environments, sandbox
) -> None:
    policy = hf(tiny_checkpoint, workers=2)

    def fail(episode: object) -> None:
        raise BadInput("no space left")

    with pytest.raises(BadInput, match="no space left"):
        play(policy, environments, sandbox=sandbox, on_episode=fail)
    episodes = play(policy, environments, sandbox=sandbox)
    expected = play(hf(tiny_checkpoint), environments, sandbox=sandbox)
    assert [episode.generations for episode in episodes] == [episode.generations for episode in expected]


def test_streamed_rollout_reports_prompts_over_the_limit(tiny_checkpoint, environments, sandbox) -> None:
    lengths = [len(hf(tiny_checkpoint).prompt_ids(request)) for request in requests_of(environments)]
    for limit in (max(lengths) - 1, 1):
        episodes = play(hf(tiny_checkpoint, max_prompt_tokens=limit), environments, sandbox=sandbox)
        assert [episode.outcome == "too_long" for episode in episodes] == [length > limit for length in lengths]


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


@given(st.lists(st.integers(0, 500), max_size=90), st.integers(1, 20))
def test_length_blocks_cover_all_rows_in_order_up_to_their_longest(lengths, rows) -> None:
    blocks = length_blocks(lengths, rows)
    assert [row for begin, end, _ in blocks for row in range(begin, end)] == list(range(len(lengths)))
    assert all(longest == max(lengths[begin:end]) for begin, end, longest in blocks)
    assert all(end - begin >= rows for begin, end, _ in blocks[:-1])


def test_rows_of_very_different_length_in_one_batch(tiny_checkpoint, reference) -> None:
    lengths = [300] * 20 + [30] * 20 + [3] * 5
    prompts = random_prompts(lengths)
    outputs = decode(packed(tiny_checkpoint), prompts, [6] * len(prompts), rows=64)
    assert len(length_blocks([length + 1 for length in lengths])) > 1
    with torch.inference_mode():
        for prompt, output in zip(prompts, outputs, strict=True):
            logits = reference(input_ids=torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
            assert logits.argmax(-1).tolist() == output


def test_commands_that_run_in_parallel_share_the_cores(tiny_checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline sets the variable. An explicit number of workers counts more."""
    monkeypatch.setenv(WORKERS_VARIABLE, "3")
    assert hf(tiny_checkpoint, workers=None).workers == 3
    assert hf(tiny_checkpoint, workers=2).workers == 2
