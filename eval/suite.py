"""The loop that every suite shares: many cases in play at once, rows that survive a kill, a summary with intervals.

Inputs: a policy, the cases of a suite. Outputs, in --out: `results.jsonl` (one row a case and trial), `faults.jsonl` (what the
infrastructure broke: not scored, played again by the next call), `summary.json`, `configuration.json`.

How a suite is written. Its module, `eval/<name>.py`, exposes four things, which `eval.run` imports when it needs them:

    SUITE = "rotbench"                                      the name
    def parser() -> argparse.ArgumentParser                 suite_parser(...) and the suite's own flags
    def run(arguments, policy=None) -> dict[str, Any]       plays and returns the summary; `policy`, if given, is loaded already
    def main() -> int                                       run(parser().parse_args()); return 0

`eval.run` lists the module in its table SUITES, with the metrics that stand for it. `run` checks its data first: files that are absent raise DataMissing (what, and where it comes from), which `eval.run` reports
as a skipped suite. It then calls `run_suite` with a `play` function. For a conversation, `play` is `play_games` with the suite's
`make_game`; a case in play is a `Game`, which needs to know nothing of batches, seeds, threads, files or tokens:

    class CoinGame:                                         # one case: ask, hear, answer
        def __init__(self, case, trial):
            self.id, self.trial, self.done = case["id"], trial, False
            self.state = conversation(case["id"], [{"role": "user", "content": case["question"]}], tools)
        def hear(self, generation):                         # one model turn
            turn = parse_turn(generation.text, "strict")
            self.state = with_messages(self.state, assistant_message(turn), {"role": "user", "content": "Sure?"})
            self.done = ...
        def row(self, outcome):                             # the suite's columns
            return {"correct": ..., "failure": "" if ... else "wrong"}

    run_suite(arguments, SUITE, case_ids=[...], metrics=("correct",), data_files=[path], policy=policy,
              play=lambda policy, plays, on_row: play_games(policy, plays, lambda case_id, trial: CoinGame(cases[case_id], trial),
                                                            seed=arguments.seed, in_flight=arguments.in_flight, max_turns=30,
                                                            on_row=on_row, threads=32))

Source: paper/README.md, "Evaluation", defect 10 (no batches, no seeds, no repeats, no intervals).
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

from env_construction.jsonl import BadInput, JsonlWriter, file_sha256, keep_configuration
from env_construction.schema import Environment, ToolDocument
from eval.results import Metric, read_rows, summarize, table_text, write_summary
from train.policies import SPECS, Generation, OraclePolicy, Policy, PolicyRequest, StreamingPolicy, load_policy
from train.rollout import turn_seed

RECORDED = ("policy", "limit", "trials", "seed", "temperature", "max_new_tokens", "max_prompt_tokens", "thinking")
Play = tuple[str, int]  # (case id, trial)
OnRow = Callable[[dict[str, Any]], None]


class DataMissing(BadInput):
    """A suite's data are not there. The message says which file, where it comes from, and how to get it."""


class GameFault(Exception):
    """The suite's own infrastructure failed (a simulated user's server, a sandbox): the case is not scored."""


class Game(Protocol):
    """One case being played. The loop calls from one thread at a time, but not always the same one.

    `state` is what the policy shall see next: `messages` and `tools`. `done` ends the game after the turn that set it.
    """

    id: str
    trial: int
    state: Environment
    done: bool

    def hear(self, generation: Generation) -> None:
        """Take one model turn: parse it, run tools or ask a simulated user, update `state`, perhaps set `done`.

        No text may make it raise: a broken turn is the model's doing and is scored. Raises GameFault for what is not.
        """

    def row(self, outcome: str) -> dict[str, Any]:
        """The suite's columns of the result row: numbers or None for the metrics, `calls`, and `failure` (its kind, or "").

        `outcome`: `ended` (the game set `done`), `max_turns`, or `too_long` (the prompt left no room for another turn).
        Called once, at the end. The loop adds id, trial, seed, outcome, turns, completion_tokens, seconds, transcript, and
        `turn_scores` (the raw text and tokens of each turn, which `replay:` reads). A `turn_scores` of the suite's own,
        one dictionary a turn, is merged into it; `transcript` and `failure` of the suite's own are kept.
        """


@runtime_checkable
class GoldGame(Protocol):
    """A game that knows the right next turn: the oracle plays it and must get full marks."""

    def gold_turn(self) -> str:
        """The raw text of the right turn in the present state."""


@dataclass
class GameRequest(PolicyRequest):
    """The request of a game's next turn. Only the oracle looks at `game`."""

    game: Game


class _GoldPolicy:
    name = "oracle"

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        turns: list[Generation] = []
        for request in requests:
            game = request.game if isinstance(request, GameRequest) else None
            if not isinstance(game, GoldGame):
                raise BadInput(f"case {request.case_id!r} has no gold turns: the oracle cannot play it")
            turns.append(Generation(text=game.gold_turn(), tokens=0, prompt_tokens=0, truncated=False))
        return turns


def conversation(
    case_id: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[ToolDocument | Mapping[str, Any]] = ()
) -> Environment:
    """A state of messages and tools alone. `tools`: documents, or OpenAI functions with or without their wrapper.

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
    """The state with more messages behind the ones it has; `state` is not changed."""
    return state.model_copy(update={"messages": [*state.messages, *(dict(message) for message in messages)]})


def play_games(
    policy: Policy,
    plays: Sequence[Play],
    make_game: Callable[[str, int], Game],
    *,
    seed: int,
    in_flight: int,
    max_turns: int,
    on_row: OnRow,
    threads: int = 0,
) -> None:
    """Play each (case id, trial) of `plays`; `on_row` gets each game's row as it ends, faults too (outcome `fault`).

    A game is made when there is room for it and dropped when it has ended; at most `in_flight` exist at once. Turns of all
    running games are generated together. `threads` 0: games hear their turns one after the other, and every run makes the
    same batches. More: they hear in that many threads, and a policy that streams is not kept waiting for a slow one (a
    simulated user, a server) while it has other turns to write. Seeds depend on `seed`, case, trial and turn alone.
    An error that a game did not expect is a fault of that game alone, with its text; BadInput ends the run.
    """
    if isinstance(policy, OraclePolicy):
        policy = _GoldPolicy()
    streams = isinstance(policy, StreamingPolicy)
    pool = ThreadPoolExecutor(max_workers=threads) if threads > 0 else None
    settings = _Settings(make_game, seed, max_turns, on_row, threading.Lock(), pool, wait_for_all=not streams)
    try:
        if isinstance(policy, StreamingPolicy):
            workers = max(1, min(policy.workers, len(plays)))
            # which worker plays a case depends on its place alone, so that batches are the same in every run
            tables = [
                _Table(plays[worker::workers], settings, max(1, in_flight // workers)) for worker in range(workers)
            ]
            if workers == 1:
                policy.stream(tables[0].exchange)
            else:
                with ThreadPoolExecutor(max_workers=workers) as streaming:
                    list(streaming.map(policy.stream, [table.exchange for table in tables]))
        else:
            table = _Table(plays, settings, in_flight)
            requests = table.exchange([], in_flight)
            while requests:
                generations = policy.generate([request for _, request in requests])
                tickets = [ticket for ticket, _ in requests]
                requests = table.exchange(list(zip(tickets, generations, strict=True)), in_flight)
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Settings:
    make_game: Callable[[str, int], Game]
    seed: int
    max_turns: int
    on_row: OnRow
    lock: threading.Lock  # one callback at a time
    pool: ThreadPoolExecutor | None
    wait_for_all: bool  # a policy that takes whole batches waits for every game of the last one


@dataclass
class _Seat:
    game: Game
    generations: list[Generation] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)


class _Table:
    """The games of one stream: takes generations as they come, in any order, and says what to generate next."""

    def __init__(self, plays: Sequence[Play], settings: _Settings, in_flight: int) -> None:
        self._settings = settings
        self._in_flight = in_flight
        self._waiting = iter(enumerate(plays))
        self._seats: dict[int, _Seat] = {}
        self._ready: deque[int] = deque()  # games whose next turn has not been asked for
        self._hearing: dict[Future[str], int] = {}
        self._asked = 0  # turns that the policy is writing

    def exchange(self, finished: list[tuple[int, Generation]], room: int) -> list[tuple[int, PolicyRequest]]:
        """Let the games hear what was generated, and return at most `room` turns to generate."""
        self._asked -= len(finished)
        for index, generation in finished:
            self._take(index, generation)
        self._gather(ALL_COMPLETED if self._settings.wait_for_all else None)
        while True:
            while len(self._seats) < self._in_flight and (item := next(self._waiting, None)) is not None:
                self._begin(*item)
            requests = [self._request(self._ready.popleft()) for _ in range(min(room, len(self._ready)))]
            if requests or not self._hearing or self._asked:
                self._asked += len(requests)
                return requests
            self._gather(FIRST_COMPLETED)

    def _begin(self, index: int, play: Play) -> None:
        try:
            self._seats[index] = _Seat(self._settings.make_game(*play))
        except GameFault as error:
            self._report(_fault_row(*play, self._settings.seed, str(error)))
        else:
            self._ready.append(index)

    def _request(self, index: int) -> tuple[int, PolicyRequest]:
        seat = self._seats[index]
        game, turn = seat.game, len(seat.generations)
        seed = turn_seed(self._settings.seed, game.id, game.trial, turn)
        return index, GameRequest(game.state, game.id, game.trial, turn, seed, game)

    def _take(self, index: int, generation: Generation) -> None:
        seat = self._seats[index]
        if generation.fault:
            self._end(index, "fault", generation.fault)
        elif generation.too_long:
            self._end(index, "too_long")
        elif self._settings.pool is None:
            seat.generations.append(generation)
            self._go_on(index, _heard(seat.game, generation))
        else:
            seat.generations.append(generation)
            self._hearing[self._settings.pool.submit(_heard, seat.game, generation)] = index

    def _gather(self, until: str | None) -> None:
        """Go on with the games that have heard their turn; waits for `until` first (None: for nothing)."""
        if not self._hearing:
            return
        heard = wait(self._hearing, return_when=until).done if until else {f for f in self._hearing if f.done()}
        for future, index in sorted(((f, self._hearing[f]) for f in heard), key=lambda pair: pair[1]):
            del self._hearing[future]
            self._go_on(index, future.result())

    def _go_on(self, index: int, fault: str) -> None:
        seat = self._seats[index]
        if fault:
            self._end(index, "fault", fault)
        elif seat.game.done:
            self._end(index, "ended")
        elif len(seat.generations) >= self._settings.max_turns:
            self._end(index, "max_turns")
        else:
            self._ready.append(index)

    def _end(self, index: int, outcome: str, fault: str = "") -> None:
        seat = self._seats.pop(index)
        game = seat.game
        if not fault:
            try:
                own = game.row(outcome)
            except BadInput:
                raise
            except Exception as error:
                fault = _unexpected(error)
        if fault:
            self._report(_fault_row(game.id, game.trial, self._settings.seed, fault))
            return
        turns = [
            {"text": g.text, "tokens": g.tokens, "prompt_tokens": g.prompt_tokens, "truncated": g.truncated}
            for g in seat.generations
        ]
        for turn, more in zip(turns, own.pop("turn_scores", ()), strict=False):
            turn.update(more)
        self._report(
            {
                "id": game.id,
                "trial": game.trial,
                "seed": self._settings.seed,
                "outcome": outcome,
                "failure": "" if outcome == "ended" else outcome,
                "turns": len(turns),
                **own,
                "completion_tokens": sum(g.tokens for g in seat.generations),
                "seconds": round(time.monotonic() - seat.begun, 3),
                "transcript": own.get("transcript", game.state.messages),
                "turn_scores": turns,
            }
        )

    def _report(self, row: dict[str, Any]) -> None:
        with self._settings.lock:
            self._settings.on_row(row)


def _heard(game: Game, generation: Generation) -> str:
    """Let the game hear the turn; returns the fault's text, empty if there was none."""
    try:
        game.hear(generation)
    except GameFault as error:
        return str(error) or "the suite's infrastructure failed"
    except BadInput:
        raise
    except Exception as error:
        return _unexpected(error)
    return ""


def _unexpected(error: Exception) -> str:
    trace, place = error.__traceback__, ""
    while trace is not None:
        place, trace = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}", trace.tb_next
    return f"unexpected {type(error).__name__} at {place}: {str(error)[:300]}"


def _fault_row(case_id: str, trial: int, seed: int, fault: str) -> dict[str, Any]:
    return {"id": case_id, "trial": trial, "seed": seed, "outcome": "fault", "fault": fault}


def suite_parser(description: str | None, prog: str, data: str | None = None) -> argparse.ArgumentParser:
    """The flags that all suites share. `data` is the default of --data; None makes the flag required."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, prog=prog
    )
    parser.add_argument("--policy", required=True, help=", ".join(SPECS))
    parser.add_argument("--data", required=data is None, default=data, help="where the cases are")
    parser.add_argument("--out", required=True, help="result folder")
    parser.add_argument(
        "--limit", type=int, default=None, help="only the first N cases (of each group, where a suite has groups)"
    )
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="tokens a turn")
    parser.add_argument(
        "--max-prompt-tokens", type=int, default=None, help="default: all that the model's context leaves"
    )
    parser.add_argument("--thinking", action="store_true")
    parser.add_argument("--batch-size", type=int, default=64, help="sequences in one batch of hf")
    parser.add_argument("--in-flight", type=int, default=256, help="cases in play at once")
    return parser


POLICY_SETTINGS = ("temperature", "max_new_tokens", "thinking", "seed", "max_prompt_tokens", "batch_size")
_kept_policies: dict[tuple[Any, ...], Policy] | None = None


@contextmanager
def one_policy() -> Iterator[None]:
    """Inside, suites with the same policy and settings share one loaded model; another one takes its place."""
    global _kept_policies
    _kept_policies = {}
    try:
        yield
    finally:
        _kept_policies = None


def load_suite_policy(arguments: argparse.Namespace) -> Policy:
    """The policy that a suite's arguments name. Raises BadInput."""
    settings = {name: getattr(arguments, name) for name in POLICY_SETTINGS}
    key = (arguments.policy, *settings.values())
    if _kept_policies is not None and key in _kept_policies:
        return _kept_policies[key]
    if _kept_policies is not None:
        _kept_policies.clear()
    policy = load_policy(arguments.policy, **settings)
    if _kept_policies is not None:
        _kept_policies[key] = policy
    return policy


@contextmanager
def row_files(out: Path, total: int, label: str) -> Iterator[tuple[set[Any], OnRow, Callable[[], int]]]:
    """The files that rows go to: yields what is done already, the row's way in, and the number of faults so far."""
    faults = 0
    with (
        JsonlWriter(out / "results.jsonl", key=("id", "trial")) as rows,
        JsonlWriter(out / "faults.jsonl", key=("id", "trial"), fresh=True) as broken,
        tqdm(total=total, initial=len(rows.done), unit="episode", desc=label) as bar,
    ):

        def keep(row: dict[str, Any]) -> None:
            nonlocal faults
            if row["outcome"] == "fault":
                faults += 1
                broken.write(row)
            else:
                rows.write(row)
            bar.update()

        yield rows.done, keep, lambda: faults


def ordered_rows(out: Path, case_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The rows that `out` holds so far, in the order of `case_ids`, then by trial."""
    order = {case_id: place for place, case_id in enumerate(case_ids)}
    file = out / "results.jsonl"
    found = read_rows(file) if file.exists() and file.stat().st_size else []
    return sorted(found, key=lambda row: (order[row["id"]], row["trial"]))


def run_suite(
    arguments: argparse.Namespace,
    suite: str,
    *,
    case_ids: Sequence[str],
    play: Callable[[Policy, list[Play], OnRow], None],
    metrics: Sequence[Metric],
    data_files: Sequence[Path | str],
    groups: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    shown: Sequence[str] | None = None,
    headline: str | None = None,
    policy: Policy | None = None,
    extra: Callable[[list[dict[str, Any]]], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Play what the result folder does not hold yet, write and print the summary, return it.

    `case_ids`: all cases, in order, without repeats. `play(policy, plays, on_row)` plays the (case id, trial) pairs that are
    left and hands over each row. `settings` are the suite's own choices: they join the recorded configuration, and a folder
    that was made with others is refused. `shown` are the printed metrics (default: all), `headline` (default: the first of them) is
    the one whose smallest resolvable difference is printed. `policy` is one that is loaded already, else it is loaded when something is left to play.
    `extra(rows)` adds the suite's own keys to the summary, beside the configuration. Raises BadInput.
    """
    begun = time.monotonic()
    out = Path(arguments.out)
    if not case_ids:
        raise BadInput(f"{', '.join(map(str, data_files))}: holds no cases")
    configuration = {name: getattr(arguments, name) for name in RECORDED} | dict(settings or {})
    hashes = _hashes(data_files)
    configuration["data_sha256"] = next(iter(hashes.values())) if len(hashes) == 1 else hashes
    keep_configuration(out, configuration)
    total = len(case_ids) * arguments.trials
    with JsonlWriter(out / "results.jsonl", key=("id", "trial")) as written:  # cuts off a line torn by a kill
        left = [
            (case, trial) for case in case_ids for trial in range(arguments.trials) if (case, trial) not in written.done
        ]
    faults = 0
    if left:
        policy = policy or load_suite_policy(arguments)
        with row_files(out, total, getattr(arguments, "label", "") + policy.name) as (_, keep, count):
            play(policy, left, keep)
            faults = count()
    elif (out / "summary.json").exists():
        print(f"{out}: all {total} episodes are there, nothing to do")
        return dict(json.loads((out / "summary.json").read_text(encoding="utf-8")))
    rows = ordered_rows(out, case_ids)
    summary = summarize(
        suite,
        arguments.policy,
        rows,
        metrics,
        groups=groups,
        seed=arguments.seed,
        seconds=time.monotonic() - begun,
        extra={
            "data_sha256": hashes,
            "faults": faults,
            **(extra(rows) if extra else {}),
            "configuration": configuration,
        },
    )
    path = write_summary(out, summary)
    shown = shown or [metric if isinstance(metric, str) else metric.name for metric in metrics]
    print(table_text({"all": summary["metrics"], **(summary[next(iter(groups))] if groups else {})}, shown))
    print(resolution_text(summary, headline or shown[0]), end="")
    print(f"wrote {out / 'results.jsonl'} ({len(rows)} rows, {faults} faults left out) and {path}")
    return summary


def _hashes(files: Sequence[Path | str]) -> dict[str, str]:
    """SHA-256 by file name; files of one name in several folders are named from the folder that they share."""
    paths = [Path(file) for file in files]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        shared = os.path.commonpath([path.resolve().parent for path in paths])
        names = [str(path.resolve().relative_to(shared)) for path in paths]
    return {name: file_sha256(path) for name, path in zip(names, paths, strict=True)}


def resolution_text(summary: Mapping[str, Any], metric: str) -> str:
    """A line on the smallest paired difference that a summary's cases can resolve; empty if that is unknown."""
    smallest = summary["smallest_resolvable_difference"].get(metric)
    if smallest is None:
        return ""
    cases = summary["metrics"][metric]["n"]
    return f"the smallest paired difference in {metric} that {cases} cases resolve at 80% power: {100 * smallest:.1f} points\n"
