"""Episodes: how they end, that they do not depend on the batch, and that no model output breaks them."""

import dataclasses
from collections.abc import Callable, Sequence

import pytest

from env_construction.sandbox.tool_sandbox import ToolCall
from reward.tool_calls import render_call
from train.policies.games import turn_seed
from train.policies.interface import Exchange, Generation, OraclePolicy, PolicyRequest, RandomPolicy
from train.policies.rollout import Episode, play

FIJI = render_call(ToolCall("capital_of", {"country": "Fiji"}))


class Scripted:
    """Says what `write(request)` says; keeps the requests."""

    name = "scripted"

    def __init__(self, write: Callable[[PolicyRequest], str | Generation]) -> None:
        self.write = write
        self.requests: list[PolicyRequest] = []
        self.batches: list[int] = []

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        self.requests.extend(requests)
        self.batches.append(len(requests))
        found = [self.write(request) for request in requests]
        return [
            item if isinstance(item, Generation) else Generation(item, tokens=1, prompt_tokens=1, truncated=False)
            for item in found
        ]


def without_time(episode: Episode) -> tuple:
    turns = [
        (turn.reward, turn.kind, turn.p, turn.q, turn.t, turn.solved, turn.unsolved_set, turn.solve_rate)
        for turn in episode.turns
    ]
    return episode.id, episode.trial, episode.outcome, episode.score, turns, episode.state.messages


def test_oracle_scores_exactly_one_everywhere(environments, sandbox) -> None:
    for match in ("published", "strict"):
        for episode in play(OraclePolicy(), environments, sandbox=sandbox, match=match):
            score = episode.score
            assert (score.solve_p, score.solve_r, score.solve_f1, score.answer_correct) == (1.0, 1.0, 1.0, True)
            assert episode.outcome == "answered"
            assert episode.state.unsolved_count == 0


def test_prefixes_are_the_states_before_each_turn(environments, sandbox) -> None:
    [episode] = play(OraclePolicy(), environments[3:], sandbox=sandbox)
    assert [len(prefix.messages) for prefix in episode.prefixes] == [1, 4, 7, 9]
    assert [prefix.unsolved_count for prefix in episode.prefixes] == [5, 3, 1, 0]
    assert [prefix.solve_rate for prefix in episode.prefixes] == pytest.approx([0.0, 0.4, 0.8, 1.0])
    assert [prefix.messages[-1]["role"] for prefix in episode.prefixes] == ["user", "tool", "tool", "tool"]
    assert episode.state.messages[-1]["content"] == "The answer is 7737002."


@pytest.mark.parametrize("in_flight", [1, 3, 100])
def test_number_in_flight_changes_nothing(environments, sandbox, in_flight) -> None:
    expected = play(RandomPolicy(), environments, trials=4, seed=2, sandbox=sandbox)
    found = play(RandomPolicy(), environments, trials=4, seed=2, sandbox=sandbox, in_flight=in_flight)
    assert [without_time(episode) for episode in found] == [without_time(episode) for episode in expected]


def test_no_more_than_in_flight_run_at_once_and_room_is_refilled(environments, sandbox) -> None:
    policy = Scripted(lambda request: "done")
    play(policy, environments, trials=3, in_flight=5, sandbox=sandbox)
    assert policy.batches == [5, 5, 2]


class WithRoom(Scripted):
    """A streaming policy that has room for `first` turns, and afterwards for `room`."""

    workers = 1

    def __init__(self, first: int, room: int) -> None:
        super().__init__(lambda request: FIJI)
        self.first, self.room = first, room

    def stream(self, exchange: Exchange) -> None:
        requests = exchange([], self.first)
        while requests:
            written = self.generate([request for _, request in requests])
            requests = exchange(
                [(ticket, said) for (ticket, _), said in zip(requests, written, strict=True)], self.room
            )


def test_at_most_twice_as_many_episodes_are_under_way_as_the_policy_has_room_for(environments, sandbox) -> None:
    policy = WithRoom(2, 2)
    play(policy, environments, trials=2, max_turns=3, sandbox=sandbox)
    episodes = [(environment.id, trial) for environment in environments for trial in range(2)]
    assert [(request.case_id, request.trial) for request in policy.requests] == episodes[:4] * 3 + episodes[4:] * 3


def test_where_room_shrinks_the_episodes_played_last_go_on_and_the_others_wait(environments, sandbox) -> None:
    policy = WithRoom(4, 1)
    play(policy, environments, trials=2, max_turns=3, sandbox=sandbox)
    assert len(policy.requests) == 8 * 3
    held: list[tuple[str, int]] = []  # the latest played last; a policy with room for one keeps two
    lost = []
    for request in policy.requests:
        episode = request.case_id, request.trial
        if request.turn and episode not in held:
            lost.append(episode)
        held = [*[other for other in held if other != episode][-1:], *[episode] * (request.turn < 2)]
    # the two of the first four that had to wait
    assert sorted(lost) == [(environments[0].id, 0), (environments[0].id, 1)]


def test_every_turn_has_its_own_seed(environments, sandbox) -> None:
    policy = Scripted(lambda request: FIJI)
    play(policy, environments, trials=2, max_turns=3, seed=9, sandbox=sandbox)
    seeds = [request.seed for request in policy.requests]
    assert len(seeds) == len(set(seeds)) == 4 * 2 * 3
    assert all(
        request.seed == turn_seed(9, request.case_id, request.trial, request.turn) for request in policy.requests
    )


def test_skip_leaves_out_what_was_done_and_changes_nothing_else(environments, sandbox) -> None:
    whole = play(RandomPolicy(), environments, trials=2, seed=1, sandbox=sandbox)
    rest = play(
        RandomPolicy(),
        environments,
        trials=2,
        seed=1,
        sandbox=sandbox,
        skip=lambda case, trial: (len(case) + trial) % 2 == 0,
    )
    expected = [episode for episode in whole if (len(episode.id) + episode.trial) % 2]
    assert 0 < len(rest) < len(whole)
    assert [without_time(episode) for episode in rest] == [without_time(episode) for episode in expected]


def test_same_call_twenty_times_ends_by_the_limit_and_lowers_precision(environments, sandbox) -> None:
    [episode] = play(Scripted(lambda request: FIJI), environments[:1], sandbox=sandbox)
    assert (episode.outcome, len(episode.turns)) == ("max_turns", 20)
    assert (episode.score.calls, episode.score.solved) == (20, 1)
    assert episode.score.solve_f1 == pytest.approx(2 / 21)
    assert not episode.score.answer_correct


def test_too_long_prompt_ends_the_episode_with_what_was_solved(environments, sandbox) -> None:
    def write(request: PolicyRequest) -> str | Generation:
        return FIJI if request.turn == 0 else Generation("", 0, 9999, False, too_long=True)

    [episode] = play(Scripted(write), environments[:1], sandbox=sandbox)
    assert (episode.outcome, len(episode.turns), len(episode.prefixes)) == ("too_long", 1, 1)
    assert episode.score.solve_r == 1.0
    assert episode.state.messages[-1]["role"] == "tool"


def test_fault_ends_its_episode_alone(environments, sandbox) -> None:
    def write(request: PolicyRequest) -> str | Generation:
        if request.case_id == "atlas-multi_hop":
            return Generation("", 0, 0, False, fault="server gone")
        return "done"

    episodes = play(Scripted(write), environments, sandbox=sandbox)
    assert [episode.outcome for episode in episodes] == ["answered", "answered", "fault", "answered"]
    assert episodes[2].fault == "server gone"


def test_fault_of_the_sandbox_is_no_failure_of_the_model(environments, sandbox) -> None:
    class Broken:
        def stream(self, jobs, expected=None):
            for results in sandbox.stream(jobs, expected):
                yield [dataclasses.replace(result, status="fault", output="no process") for result in results]

    [episode] = play(OraclePolicy(), environments[:1], sandbox=Broken())  # type: ignore[arg-type]
    assert (episode.outcome, episode.fault) == ("fault", "no process")


HOSTILE = {
    "empty": "",
    "blank": " \n\t ",
    "megabyte": "x" * 1_000_000,
    "half a call": '<tool_call>\n{"name": "capital_of", "argum',
    "wrong tool": render_call(ToolCall("no_such_tool", {})),
    "wrong arguments": render_call(ToolCall("capital_of", {"planet": 3})),
    "fenced": "```json\n" + FIJI + "\n```",
    "bare json": '{"name": "capital_of", "arguments": {"country": "Fiji"}}',
    "call after the answer": "The answer is Suva.\n" + FIJI,
    "unclosed thinking": "<think> I wonder " + FIJI,
    "surrogate": '<tool_call>\n{"name": "capital_of", "arguments": {"country": "\\ud800"}}\n</tool_call>',
    "nul and controls": "\x00\x1b[31m\u202e",
    "deep": "<tool_call>" + "[" * 100_000 + "</tool_call>",
    "special tokens": "<|im_end|><|im_start|>system",
}


@pytest.mark.parametrize("match", ["published", "strict"])
@pytest.mark.parametrize("kind", list(HOSTILE))
def test_hostile_output_ends_in_a_scored_episode(environments, sandbox, kind, match) -> None:
    [episode] = play(
        Scripted(lambda request: HOSTILE[kind]), environments[:1], max_turns=3, sandbox=sandbox, match=match
    )
    assert episode.outcome in ("answered", "max_turns")
    assert 0.0 <= episode.score.solve_f1 <= 1.0
    assert len(episode.turns) == len(episode.generations) == len(episode.prefixes)


def test_callback_sees_each_episode_as_it_ends(environments, sandbox) -> None:
    seen: list[str] = []
    play(OraclePolicy(), environments[::-1], sandbox=sandbox, on_episode=lambda episode: seen.append(episode.id))
    assert sorted(seen) == sorted(environment.id for environment in environments)
    assert seen.index("atlas-single_hop") < seen.index("atlas-parallel_multi_hop")
