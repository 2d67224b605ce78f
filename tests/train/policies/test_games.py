"""The engine that plays every game: who is asked when, how streams share the games, how a game ends."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from env_construction.environment.schema import Environment
from train.policies.games import Game, play_games, take_turns, turn_seed
from train.policies.interface import Exchange, Generation, PolicyRequest


class Counted(Game):
    """Ends by itself after `turns` turns."""

    def __init__(self, case: str, turns: int, fault: str = "") -> None:
        super().__init__(case, 0, Environment(id=case, messages=[], tools=[], codes={}, unsolved_set={}), fault)
        self.turns = turns


def hear(games: Sequence[Counted]) -> list[str]:
    for game in games:
        game.done = len(game.generations) == game.turns
    return [""] * len(games)


class Streams:
    """Several streams with room for `room` turns each; notes what each of its streams was asked for."""

    name = "streams"

    def __init__(self, workers: int, room: int) -> None:
        self.workers = workers
        self.room = room
        self.asked: list[list[list[PolicyRequest]]] = []

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        return [Generation("said", tokens=1, prompt_tokens=1, truncated=False) for _ in requests]

    def stream(self, exchange: Exchange) -> None:
        batches: list[list[PolicyRequest]] = []
        self.asked.append(batches)
        finished: list[tuple[int, Generation]] = []
        while tickets := exchange(finished, self.room):
            batches.append([request for _, request in tickets])
            said = self.generate(batches[-1])
            finished = [(ticket, generation) for (ticket, _), generation in zip(tickets, said, strict=True)]


def played(policy: Any, games: Sequence[Counted], **settings: Any) -> list[int]:
    """Plays the games; their places in the order in which they ended."""
    ended: list[int] = []
    settings = {"seed": 3, "in_flight": 8, "max_turns": 4} | settings
    play_games(
        policy, len(games), games.__getitem__, hear=hear, on_end=lambda place, game: ended.append(place), **settings
    )
    return ended


@given(st.integers(0, 12), st.integers(0, 6), st.integers(0, 12))
def test_turns_are_taken_in_order_from_the_games_played_last_and_none_is_lost(count, room, kept) -> None:
    ready = list(range(count))
    taken = take_turns(ready, room, kept)
    assert taken == list(range(count))[max(0, count - kept) :][:room]
    assert sorted([*taken, *ready]) == list(range(count))
    assert ready == sorted(ready)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("threads", [0, 2])
def test_every_game_is_played_once_and_its_place_says_by_which_stream(workers, threads) -> None:
    games = [Counted(str(place), 1 + place % 3) for place in range(11)]
    policy = Streams(workers, room=2)
    assert sorted(played(policy, games, threads=threads)) == list(range(11))
    assert [len(game.generations) for game in games] == [game.turns for game in games]
    streams = [{int(request.case_id) % workers for batch in batches for request in batch} for batches in policy.asked]
    assert sorted(map(sorted, streams)) == [[worker] for worker in range(workers)]


def test_streams_share_the_games_in_flight_and_no_stream_is_made_for_nothing() -> None:
    policy = Streams(workers=2, room=50)
    played(policy, [Counted(str(place), 2) for place in range(10)], in_flight=4)
    assert {len(batch) for batches in policy.asked for batch in batches} <= {1, 2}
    few = Streams(workers=8, room=50)
    played(few, [Counted("0", 1), Counted("1", 1)])
    assert len(few.asked) == 2


def test_requests_carry_the_turn_and_its_seed() -> None:
    policy = Streams(workers=1, room=9)
    played(policy, [Counted("a", 3), Counted("b", 9)])
    [batches] = policy.asked
    assert [[(request.case_id, request.turn) for request in batch] for batch in batches] == [
        [("a", 0), ("b", 0)], [("a", 1), ("b", 1)], [("a", 2), ("b", 2)], [("b", 3)],
    ]  # fmt: skip
    assert all(request.seed == turn_seed(3, request.case_id, 0, request.turn) for batch in batches for request in batch)


def test_how_games_end() -> None:
    class Uneven(Streams):
        def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
            special = {
                "long": Generation("", 0, 9, False, too_long=True),
                "broken": Generation("", 0, 0, False, fault="server gone"),
            }
            said = super().generate(requests)
            return [special.get(request.case_id, text) for request, text in zip(requests, said, strict=True)]

    games = [Counted(case, turns) for case, turns in (("done", 2), ("endless", 9), ("long", 2), ("broken", 2))]
    unmade = Counted("unmade", 1, fault="no database")
    policy = Uneven(workers=1, room=9)
    played(policy, [*games, unmade])
    found = [(game.outcome, game.fault, len(game.generations)) for game in [*games, unmade]]
    assert found == [
        ("ended", "", 2),
        ("max_turns", "", 4),
        ("too_long", "", 0),
        ("fault", "server gone", 0),
        ("fault", "no database", 0),
    ]
    assert "unmade" not in {request.case_id for [batches] in [policy.asked] for batch in batches for request in batch}
    assert all(game.seconds >= 0 for game in games)


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_of_hear_ends_the_run_and_leaves_no_thread(threads) -> None:
    def refuse(games: Sequence[Counted]) -> list[str]:
        if games:
            raise ValueError("mend this")
        return []

    games = [Counted(str(place), 2) for place in range(4)]
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="mend this"):
        play_games(
            Streams(workers=1, room=2),
            len(games),
            games.__getitem__,
            hear=refuse,
            on_end=lambda place, game: None,
            seed=0,
            in_flight=4,
            max_turns=2,
            threads=threads,
        )
    assert set(threading.enumerate()) == before
