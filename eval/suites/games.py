"""A suite's active cases, each defined by `hear` and `row`; the engine that plays them is train/policies/games.py.

eval/suites/suite.py explains how to build a suite on this.

Example:
    play = game_player(arguments, make_game, max_turns=9)
    play(policy, [("q1", 0), ("q1", 1)], print)     # one result row per (case id, trial), in completion order
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment, ToolDocument
from train.policies.games import Game, play_games
from train.policies.interface import Generation, Policy
from train.policies.specs import IN_FLIGHT

T = TypeVar("T")
Play = tuple[str, int]  # (case id, trial)
OnRow = Callable[[dict[str, Any]], None]
PlayCases = Callable[[Policy, Sequence[Play], OnRow], None]


class GameFault(Exception):
    """The suite's own infrastructure failed (a simulated user's server, a sandbox); the case is not scored."""


class SuiteGame(Game):
    """One active case of a suite. Calls come from one thread at a time, but not always the same thread."""

    def hear(self, generation: Generation) -> None:
        """Process one model turn: parse it, run tools or query a simulated user, update `state`.

        Set `done` at the end of the game. No model text may raise an exception: a broken turn is the model's error and
        is scored. Raises GameFault for infrastructure errors.
        """
        raise NotImplementedError

    def row(self, outcome: str) -> dict[str, Any]:
        """The suite's columns of the row: numbers or None for the metrics, `calls`, and `failure` (its kind, or "").

        Called once at the end, unless there was a fault. The engine adds id, trial, seed, outcome, turns,
        completion_tokens, seconds, transcript, and `turn_scores` (the raw text and tokens of each turn, which `replay:`
        reads). The suite may return its own `turn_scores`, one dictionary per turn, which is merged. Its own
        `transcript` and `failure` are kept.
        """
        raise NotImplementedError


def conversation(
    case_id: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[ToolDocument | Mapping[str, Any]] = ()
) -> Environment:
    """A state with only messages and tools. `tools`: documents, or OpenAI functions with or without their wrapper.

    Raises BadInput for a tool without a name.
    """
    documents = []
    for tool in tools:
        if isinstance(tool, ToolDocument):
            documents.append(tool)
            continue
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadInput(f"case {case_id!r}: expected a tool with a name, got {str(tool)[:100]!r}")
        documents.append(
            ToolDocument(
                **{
                    **function,
                    "description": function.get("description") or "",
                    "parameters": function.get("parameters") or {"type": "object", "properties": {}},
                }
            )
        )
    return Environment(id=case_id, messages=[dict(m) for m in messages], tools=documents, codes={}, unsolved_set={})


def with_messages(state: Environment, *messages: Mapping[str, Any]) -> Environment:
    """A copy of the state with more messages appended; `state` is not changed."""
    return state.model_copy(update={"messages": [*state.messages, *(dict(message) for message in messages)]})


def game_player(
    arguments: argparse.Namespace, make_game: Callable[[str, int], SuiteGame], *, max_turns: int, threads: int = 0
) -> PlayCases:
    """A function that plays (case id, trial) pairs as games and passes on a row for each when it ends.

    Faults get a row too. `arguments`: the suite's --seed and --in-flight. `threads`: see play_games. An unexpected
    error in a game is a fault of that game only, recorded with its text. BadInput ends the run.
    """

    def play(policy: Policy, plays: Sequence[Play], on_row: OnRow) -> None:
        lock = threading.Lock()  # rows are passed on one at a time

        def make(place: int) -> SuiteGame:
            game, fault = _attempt(partial(make_game, *plays[place]))
            return game or SuiteGame(*plays[place], conversation(plays[place][0], []), fault)

        def keep(place: int, game: SuiteGame) -> None:
            row = _row(game, arguments.seed)
            with lock:
                try:
                    on_row(row)
                except RecursionError:  # arguments nested beyond JSON's limit; the raw turn texts still hold them
                    on_row(row | {"transcript": []})

        play_games(
            policy,
            len(plays),
            make,
            hear=_hear_each,
            on_end=keep,
            seed=arguments.seed,
            in_flight=arguments.in_flight or IN_FLIGHT,
            max_turns=max_turns,
            threads=threads,
        )

    return play


def _hear_each(games: Sequence[SuiteGame]) -> Iterator[str]:
    return (_attempt(partial(game.hear, game.generations[-1]))[1] for game in games)


def _row(game: SuiteGame, seed: int) -> dict[str, Any]:
    own, fault = (None, game.fault) if game.fault else _attempt(partial(game.row, game.outcome))
    row: dict[str, Any] = {"id": game.id, "trial": game.trial, "seed": seed}
    if own is None:
        return row | {"outcome": "fault", "fault": fault}
    turns = [
        {"text": g.text, "tokens": g.tokens, "prompt_tokens": g.prompt_tokens, "truncated": g.truncated}
        for g in game.generations
    ]
    for turn, more in zip(turns, own.pop("turn_scores", ()), strict=False):
        turn.update(more)
    return {
        **row,
        "outcome": game.outcome,
        "failure": "" if game.outcome == "ended" else game.outcome,
        "turns": len(turns),
        **own,
        "completion_tokens": sum(g.tokens for g in game.generations),
        "seconds": round(game.seconds, 3),
        "transcript": own.get("transcript", game.state.messages),
        "turn_scores": turns,
    }


def _attempt(act: Callable[[], T]) -> tuple[T | None, str]:
    """The result of `act`, and the text of its fault (empty if none). BadInput is raised, so that the user sees it."""
    try:
        return act(), ""
    except BadInput:
        raise
    except GameFault as error:
        return None, str(error) or "the suite's infrastructure failed"
    except Exception as error:
        trace, place = error.__traceback__, ""
        while trace is not None:
            place, trace = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}", trace.tb_next
        return None, f"unexpected {type(error).__name__} at {place}: {str(error)[:300]}"
