"""Thousands of live episodes in one process: start, call, finish.

Example:
    with EpisodeServer(environments) as server:
        start = server.reset(split="test", index=0)
        result = server.call(start.episode, "capital_of", {"country": "Peru"})
        outcome = server.finish(start.episode, "The answer is Lima.")

A client sees messages, tool documents and tool outputs. Rewards, and everything else that depends on the gold, are
returned only at the end. Each call runs isolated in the sandbox, so episodes share no state. An episode of a stateful
environment starts with its own copy of the tables and passes them from call to call. An episode ends by `finish`, by a
turn of text without a call, or by expiry.

Turns: the reward is computed per turn, so a client that sends single calls must number the turns (`turn`). A call
without a number is a separate turn. Calls of one turn may run concurrently, except in a stateful environment. A call
of another turn is rejected as busy in the meantime, because two clients would be playing one episode.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from env_construction.environment.matching import MATCHES
from env_construction.environment.schema import Environment
from env_construction.environment.state import Tables
from env_construction.sandbox.stateful_turn import read_run, stateful_job
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolResult, ToolSandbox, shared_sandbox
from reward.rewards import REWARDS
from reward.tool_calls import ParsedTurn, parse_turn, tool_messages
from serving.episodes.errors import EpisodeError, ErrorCode
from serving.episodes.log import EpisodeLog
from serving.episodes.outcomes import Outcome, Turn, outcome_of

SUBMIT = "submit_answer"
REMEMBERED = 100_000
"""How many ended episodes the server remembers, so that a late call gets a clear error."""


@dataclass(frozen=True)
class Limits:
    """Limits of one episode: `calls`, `seconds` from start to end, `idle_seconds` without a request, `bytes` of all
    arguments, texts and outputs, and `request_bytes` of one request. `episodes` limits the live episodes of the
    server."""

    calls: int = 256
    seconds: float = 3600.0
    idle_seconds: float = 600.0
    bytes: int = 64 << 20
    request_bytes: int = 1 << 20
    episodes: int = 8192


@dataclass(frozen=True)
class Start:
    """The reply to a reset. `episode` is a secret of 128 bits; any client that has it can play the episode.

    `tools` are in the OpenAI function format.
    """

    episode: str
    environment: str
    split: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


@dataclass(frozen=True)
class TurnReply:
    """The reply to a turn of text: the tool messages, or the outcome if the turn ended the episode."""

    messages: list[dict[str, Any]]
    outcome: Outcome | None


@dataclass
class _Episode:
    key: str
    environment: Environment
    started: float
    heard: float
    turns: list[Turn] = field(default_factory=list)
    calls: int = 0
    bytes: int = 0
    running: int = 0
    tables: Tables | None = None  # of a stateful environment; None until its first call in this process

    def job(self, calls: Sequence[ToolCall], sandbox: ToolSandbox) -> SandboxJob:
        """The job of the next calls, on the current tables if the environment is stateful."""
        if self.environment.state is None:
            return SandboxJob(self.environment.codes, calls)
        if self.tables is None:
            self.tables = self.environment.state.now
            for turn in self.turns:
                _, made, _ = turn.written()
                if made:  # an episode that a restart interrupted
                    self.results(made, sandbox.run_batch([self.job(made, sandbox)])[0])
        return stateful_job(self.environment.codes, calls, self.tables)

    def results(self, calls: Sequence[ToolCall], found: Sequence[ToolResult]) -> Sequence[ToolResult]:
        """One result per call from the results of `job`; a stateful environment's tables move on."""
        if self.environment.state is None:
            return found
        run = read_run(self.environment.codes, calls, self.tables, found)
        self.tables = run.state
        return run.results


class EpisodeServer:
    """Plays the environments of one file. Thread-safe. A context manager that closes the log.

    `environments`: by id. `match`: how to parse the calls in a turn of text; the outcome covers both match modes.
    `log`: keeps episodes across restarts. Every method raises EpisodeError for a request that it rejects.
    """

    def __init__(
        self,
        environments: Mapping[str, Environment],
        *,
        limits: Limits | None = None,
        variant: str = "solve_f1",
        match: str = "published",
        sandbox: ToolSandbox | None = None,
        log: EpisodeLog | None = None,
    ) -> None:
        if variant not in REWARDS or match not in MATCHES:
            raise ValueError(f"unknown variant {variant!r} or match {match!r}")
        self.limits = limits or Limits()
        self.environments = environments
        self.splits: dict[str, list[Environment]] = {}
        for environment in environments.values():
            self.splits.setdefault(environment.split, []).append(environment)
        self._variant, self._match = variant, match
        self._sandbox = sandbox or shared_sandbox()
        self._lock = threading.Lock()
        self._live: OrderedDict[str, _Episode] = OrderedDict()  # least recently used first
        self._over: OrderedDict[str, ErrorCode] = OrderedDict()  # {key: reason}
        self._log = log
        now = time.monotonic()
        if log:
            live, self._over = log.restore(REMEMBERED)
            for key, (identity, turns) in live.items():
                self._live[key] = _restored(key, environments[identity], turns, now)

    # -- the three requests ----------------------------------------------------------------------------------------

    def reset(self, split: str | None = None, index: int | None = None, id: str | None = None, seed: int = 0) -> Start:
        """Start an episode of the environment `id`, of number `index` of `split`, or of a random one (`seed`).

        Without a split, `index` refers to the complete file.
        """
        environment = self.choose(split, index, id, seed)
        key, now = secrets.token_hex(16), time.monotonic()
        with self._lock:
            self._expire(now)
            if len(self._live) >= self.limits.episodes:
                raise EpisodeError(
                    "full",
                    f"{len(self._live)} episodes are live, the maximum of this server; finish one, or retry later",
                )
            self._live[key] = _Episode(key, environment, now, now)
            if self._log:
                self._log.started(key, environment.id)
        return Start(key, environment.id, environment.split, environment.messages, environment.openai_tools())

    def call(self, episode: str, name: str, arguments: dict[str, Any], turn: int | None = None) -> ToolResult:
        """Run one tool call. A failed or unknown tool is a result and counts as a call; a rejected request does not."""
        live, call, place = self._begin(episode, name, arguments, turn)
        try:
            job = live.job([call], self._sandbox)
            [result] = live.results([call], self._sandbox.run(job.codes, job.calls))
        except BaseException:
            self._end(live, place, None)
            raise
        return _or_raise(self._end(live, place, result))

    async def call_async(
        self, episode: str, name: str, arguments: dict[str, Any], turn: int | None = None
    ) -> ToolResult:
        """`call` for asyncio. If the client disconnects, the call still completes and counts."""
        live, call, place = self._begin(episode, name, arguments, turn)
        return await asyncio.shield(self._run_async(live, call, place))

    async def _run_async(self, live: _Episode, call: ToolCall, place: tuple[int, int]) -> ToolResult:
        try:
            job = live.job([call], self._sandbox)
            [result] = live.results([call], await self._sandbox.run_async(job.codes, job.calls))
        except BaseException:
            self._end(live, place, None)
            raise
        return _or_raise(self._end(live, place, result))

    def call_many(
        self, calls: Sequence[tuple[str, str, dict[str, Any], int | None]]
    ) -> list[ToolResult | EpisodeError]:
        """Run calls (episode, name, arguments, turn) of many episodes in one batch. A rejected call gets an error."""
        begun: list[tuple[_Episode, ToolCall, tuple[int, int]] | EpisodeError] = []
        for call in calls:
            try:
                begun.append(self._begin(*call))
            except EpisodeError as error:
                begun.append(error)
        made = [item for item in begun if not isinstance(item, EpisodeError)]
        try:
            found = self._sandbox.run_batch([live.job([call], self._sandbox) for live, call, _ in made])
            results = [live.results([call], of_call) for (live, call, _), of_call in zip(made, found, strict=True)]
        except BaseException:
            for live, _, place in made:
                self._end(live, place, None)
            raise
        ended = iter(
            [self._end(live, place, of_call[0]) for (live, _, place), of_call in zip(made, results, strict=True)]
        )
        return [item if isinstance(item, EpisodeError) else next(ended) for item in begun]

    def turn(self, episode: str, text: str) -> TurnReply:
        """Accept a complete turn as the model wrote it: run its calls, or end the episode if it has none."""
        parsed = self._read(text)
        if not parsed.calls:
            return TurnReply([], self.finish(episode, text))
        with self._alone(episode, parsed, text) as live:
            job = live.job(parsed.calls, self._sandbox)
            results = live.results(parsed.calls, self._sandbox.run(job.codes, job.calls))
            _refuse_fault(results)
            with self._lock:
                live.turns.append(Turn(text=text, calls=list(parsed.calls), results=list(results)))
                live.calls += len(parsed.calls)
                live.bytes += len(text) + sum(len(result.output) for result in results)
                if self._log:
                    self._log.said(episode, live.turns, len(live.turns) - 1)
        return TurnReply(tool_messages(parsed, results), None)

    async def turn_async(self, episode: str, text: str) -> TurnReply:
        return await asyncio.shield(asyncio.to_thread(self.turn, episode, text))

    def finish(self, episode: str, text: str | None = None) -> Outcome:
        """End an episode. `text` is the last turn, with the answer; None adds no turn. Calls in it run and count."""
        parsed = self._read(text) if text is not None else None
        with self._alone(episode, parsed, text or "") as live:
            turns = live.turns if text is None else [*live.turns, Turn(text=text)]
            outcome = outcome_of(live.environment, turns, variant=self._variant, sandbox=self._sandbox)
            if outcome.published.fault or outcome.strict.fault:
                raise EpisodeError("sandbox_fault", "the tool sandbox failed while scoring; finish the episode again")
            with self._lock:
                self._drop(live, "ended")
        return outcome

    async def finish_async(self, episode: str, text: str | None = None) -> Outcome:
        return await asyncio.shield(asyncio.to_thread(self.finish, episode, text))

    # -- other operations ------------------------------------------------------------------------------------------

    def choose(
        self, split: str | None = None, index: int | None = None, id: str | None = None, seed: int = 0
    ) -> Environment:
        """The environment that `reset` would start."""
        if split is not None and split not in self.splits:
            raise EpisodeError("unknown_split", f"split {_short(split)}: expected one of {', '.join(self.splits)}")
        if id is not None:
            environment = self.environments.get(id)
            if environment is None or (split is not None and environment.split != split) or index is not None:
                raise EpisodeError(
                    "unknown_environment",
                    f"id {_short(id)}: expected an environment of this server or split, without an index",
                )
            return environment
        some = list(self.environments.values()) if split is None else self.splits[split]
        if index is None:
            return random.Random(f"{seed}:{split or ''}:reset").choice(some)
        if not 0 <= index < len(some):
            raise EpisodeError("unknown_environment", f"index {index}: expected 0 to {len(some) - 1}")
        return some[index]

    def environment_of(self, episode: str) -> Environment:
        """The environment of a live episode, with the gold. Never send it to clients."""
        with self._lock:
            return self._find(episode).environment

    def is_live(self, episode: str) -> bool:
        with self._lock:
            return episode in self._live and not self._is_late(self._live[episode], time.monotonic())

    def drop(self, episode: str) -> None:
        """End an abandoned episode without scoring it."""
        with self._lock:
            self._drop(self._find(episode), "ended")

    def live(self) -> int:
        """Number of live episodes, after expiring the idle ones."""
        with self._lock:
            self._expire(time.monotonic())
            return len(self._live)

    def close(self) -> None:
        if self._log:
            self._log.close()

    def __enter__(self) -> EpisodeServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- state changes under the lock ------------------------------------------------------------------------------

    def _begin(
        self, key: str, name: str, arguments: dict[str, Any], number: int | None
    ) -> tuple[_Episode, ToolCall, tuple[int, int]]:
        """Check a call and reserve its place: (turn, position in the turn)."""
        size = _size(name, arguments, self.limits.request_bytes)
        with self._lock:
            live = self._find(key)
            last = live.turns[-1] if live.turns else None
            if live.running and (number is None or last is None or last.number != number):
                raise EpisodeError("busy", "a call of another turn of this episode is still running")
            if live.running and live.environment.state is not None:
                raise EpisodeError("busy", "a call is still running, and calls of this environment run in order")
            self._check_limits(live, 1, size)
            if number is not None and any(turn.number == number for turn in live.turns[:-1]):
                raise EpisodeError(
                    "closed_turn", f"turn {number} is closed, because a later turn has begun; use its number"
                )
            if last is None or number is None or last.number != number:
                last = Turn(number)
                live.turns.append(last)
            call = ToolCall(name, arguments)
            last.calls.append(call)
            last.results.append(None)
            live.calls += 1
            live.bytes += size
            live.running += 1
            return live, call, (len(live.turns) - 1, len(last.calls) - 1)

    def _end(self, live: _Episode, place: tuple[int, int], result: ToolResult | None) -> ToolResult | EpisodeError:
        """Store a result. After a sandbox fault, or without a result, the call does not count."""
        with self._lock:
            live.running -= 1
            live.heard = time.monotonic()
            if result is None or result.status == "fault":
                live.calls -= 1
                return EpisodeError("sandbox_fault", result.output if result else "the call was not run")
            live.turns[place[0]].results[place[1]] = result
            live.bytes += len(result.output)
            if self._log:
                self._log.called(live.key, live.turns, *place)
        return result

    @contextlib.contextmanager
    def _alone(self, key: str, parsed: ParsedTurn | None, text: str) -> Iterator[_Episode]:
        """The episode, for a request that must not run concurrently with others."""
        with self._lock:
            live = self._find(key)
            if live.running:
                raise EpisodeError("busy", "a call of this episode is still running")
            if parsed is not None and parsed.calls:
                self._check_limits(live, len(parsed.calls), len(text))
            live.running += 1
        try:
            yield live
        finally:
            with self._lock:
                live.running -= 1
                live.heard = time.monotonic()

    def _read(self, text: str) -> ParsedTurn:
        if not isinstance(text, str):
            raise EpisodeError("bad_request", f"text: expected a string, got {type(text).__name__}")
        if len(text) > self.limits.request_bytes:
            raise EpisodeError(
                "byte_limit", f"text: {len(text)} characters exceed the limit of {self.limits.request_bytes} per turn"
            )
        return parse_turn(text, self._match)

    def _check_limits(self, live: _Episode, calls: int, size: int) -> None:
        if live.calls + calls > self.limits.calls:
            raise EpisodeError("call_limit", f"the limit is {self.limits.calls} calls per episode; finish the episode")
        if live.bytes + size > self.limits.bytes:
            raise EpisodeError("byte_limit", f"the limit is {self.limits.bytes} bytes per episode; finish the episode")

    def _find(self, key: str) -> _Episode:
        live = self._live.get(key) if isinstance(key, str) else None
        if live is not None:
            now = time.monotonic()
            if not self._is_late(live, now):
                live.heard = now
                self._live.move_to_end(key)
                return live
            self._drop(live, "expired")
        over = self._over.get(key) if isinstance(key, str) else None
        if over == "expired":
            raise EpisodeError("expired", "the episode has expired; start a new one")
        if over is not None:
            raise EpisodeError("ended", "the episode has ended; start a new one")
        raise EpisodeError("unknown_episode", "no such episode; start one first")

    def _is_late(self, live: _Episode, now: float) -> bool:
        if live.running:
            return False
        return now - live.heard > self.limits.idle_seconds or now - live.started > self.limits.seconds

    def _expire(self, now: float) -> None:
        """Drop expired episodes. `_live` is ordered by the time of the last request."""
        while self._live:
            live = next(iter(self._live.values()))
            if live.running and now - live.heard > self.limits.idle_seconds:
                self._live.move_to_end(live.key)  # a long call is running; its end counts as activity
                live.heard = now
            elif self._is_late(live, now):
                self._drop(live, "expired")
            else:
                return

    def _drop(self, live: _Episode, reason: ErrorCode) -> None:
        del self._live[live.key]
        self._over[live.key] = reason
        if len(self._over) > REMEMBERED:
            self._over.popitem(last=False)
        if self._log:
            self._log.ended(live.key, reason)


def submit_name(environment: Environment) -> str:
    """The name of the tool that accepts the answer. It differs from all tools of the environment."""
    names = {tool.name for tool in environment.tools}
    name = SUBMIT
    while name in names:
        name += "_"
    return name


def _restored(key: str, environment: Environment, turns: list[Turn], now: float) -> _Episode:
    size = sum(len(result.output) for turn in turns for result in turn.results if result)
    return _Episode(key, environment, now, now, turns, sum(len(turn.calls) for turn in turns), size)


def _or_raise(result: ToolResult | EpisodeError) -> ToolResult:
    if isinstance(result, EpisodeError):
        raise result
    return result


def _refuse_fault(results: Sequence[ToolResult]) -> None:
    for result in results:
        if result.status == "fault":
            raise EpisodeError("sandbox_fault", result.output)


def _size(name: str, arguments: dict[str, Any], most: int) -> int:
    """Characters of a call as JSON. Raises EpisodeError for a malformed or too large call."""
    if not isinstance(name, str) or not name:
        raise EpisodeError("bad_request", "name: expected the name of a tool")
    if not isinstance(arguments, dict):
        raise EpisodeError("bad_request", f"arguments: expected a JSON object, got {type(arguments).__name__}")
    try:
        size = len(json.dumps(arguments)) + len(name)
    except (TypeError, ValueError, RecursionError) as error:
        raise EpisodeError("bad_request", f"arguments: not serializable as JSON ({error})") from None
    if size > most:
        raise EpisodeError("byte_limit", f"arguments: {size} bytes exceed the limit of {most} per request")
    return size


def _short(text: str) -> str:
    return repr(text[:80])
