"""The vllm policy on the CPU engine: two engines stream one rollout and say what transformers says, greedily."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from train.policies.interface import PolicyRequest, StreamingPolicy
from train.policies.local_policies import HfPolicy, VllmPolicy
from train.policies.rollout import play

pytestmark = pytest.mark.integration
# vLLM's CPU kernels have no heads as narrow as those of the random test checkpoint; this one is trained
CHECKPOINT = Path(__file__).resolve().parents[3] / "assets" / "tiny_policy"
LIMITS = {"max_new_tokens": 64, "max_prompt_tokens": 1200}


@pytest.fixture(scope="module")
def policy() -> Iterator[VllmPolicy]:
    """Two engines, as on a machine with two GPUs."""
    policy = VllmPolicy(CHECKPOINT, workers=2, **LIMITS)
    yield policy
    while not policy._free.empty():
        policy._free.get().llm_engine.engine_core.shutdown()


def requests_of(environments) -> list[PolicyRequest]:
    return [PolicyRequest(environment, environment.id, 0, 0, place) for place, environment in enumerate(environments)]


def test_greedy_turns_equal_those_of_transformers(policy, environments) -> None:
    other = HfPolicy(CHECKPOINT, device="cpu", **LIMITS)
    assert policy.generate(requests_of(environments)) == other.generate(requests_of(environments))


def test_streamed_rollout_on_two_engines_equals_lock_step_on_one(policy, environments, sandbox) -> None:
    class LockStep:
        name = "lock step"
        generate = staticmethod(policy.generate)

    assert isinstance(policy, StreamingPolicy) and policy.workers == 2
    options = {"trials": 3, "max_turns": 3, "sandbox": sandbox, "seed": 3}
    streamed, turn_by_turn = play(policy, environments, **options), play(LockStep(), environments, **options)
    assert [episode.generations for episode in streamed] == [episode.generations for episode in turn_by_turn]
    assert [episode.score for episode in streamed] == [episode.score for episode in turn_by_turn]


def test_a_turn_is_handed_out_while_others_are_still_written(policy, environments) -> None:
    """No lock step: the short turn comes back before the long one, whose request was made first."""
    long, short = requests_of(environments[:2])
    policy_room = policy.room
    order: list[int] = []
    asked = [(0, long), (1, short)]
    rooms = iter([policy.context - 300, policy.context - 300, 1, 1])
    policy.room = lambda prompt_tokens: next(rooms)
    try:

        def exchange(finished, room):
            order.extend(ticket for ticket, _ in finished)
            return [asked.pop(0) for _ in range(min(room, len(asked)))]

        policy.stop_ids, stop_ids = frozenset(), policy.stop_ids
        policy.stream(exchange)
    finally:
        policy.room, policy.stop_ids = policy_room, stop_ids
    assert order == [1, 0]


def test_a_prompt_beyond_the_limits_is_reported_and_the_others_are_played(policy, environments) -> None:
    wordy = environments[0].model_copy(
        update={"messages": [{"role": "user", "content": "Lima and Accra " * 1200}], "id": "wordy"}
    )
    first, second = policy.generate(requests_of([wordy, environments[1]]))
    assert first.too_long and not first.text and first.prompt_tokens > 1200
    assert second.tokens > 0


def test_an_error_of_the_rollout_leaves_no_request_behind(policy, environments) -> None:
    expected = policy.generate(requests_of(environments))
    calls = iter([requests_of(environments)])

    def fails(finished, room):
        if finished:
            raise RuntimeError("the sandbox is gone")
        return list(enumerate(next(calls)))

    with pytest.raises(RuntimeError, match="the sandbox is gone"):
        policy.stream(fails)
    assert [policy.generate(requests_of(environments)) for _ in range(2)] == [expected, expected]  # each engine once
