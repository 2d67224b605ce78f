"""The server's log: it records the progress of every episode, so that a killed server can resume.

It has one JSON line for each start, turn, call and end, in `episodes.jsonl`. Its folder belongs to one data file. At
startup the server reads the log and rewrites it without the turns of finished episodes. A call that was running when
the server was killed is not in the log; the client repeats it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, JsonlWriter, keep_configuration, read_jsonl, write_jsonl
from env_construction.sandbox.tool_sandbox import ToolCall, ToolResult
from serving.episodes.errors import ErrorCode
from serving.episodes.outcomes import Turn


class EpisodeLog:
    """An append-only log in `folder`. Raises BadInput if the folder belongs to another data file."""

    def __init__(self, folder: Path, data_sha256: str) -> None:
        keep_configuration(folder, {"environments_sha256": data_sha256})
        self._path = folder / "episodes.jsonl"
        JsonlWriter(self._path).close()  # drops a torn last line
        self._writer: JsonlWriter | None = None

    def restore(self, remembered: int) -> tuple[dict[str, tuple[str, list[Turn]]], OrderedDict[str, ErrorCode]]:
        """{key: (environment id, turns)} of live episodes, and {key: reason} of the last `remembered` ended ones."""
        live: dict[str, tuple[str, list[Turn]]] = {}
        over: OrderedDict[str, ErrorCode] = OrderedDict()
        for number, record in read_jsonl(self._path, required=("episode",)):
            try:
                _replay(live, over, record)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise BadInput(f"{self._path}:{number}: expected a line of an episode log ({error!r})") from None
        while len(over) > remembered:
            over.popitem(last=False)
        lines = [line for key, (start, turns) in live.items() for line in _lines(key, start, turns)]
        write_jsonl(self._path, [*({"episode": key, "ended": reason} for key, reason in over.items()), *lines])
        self._writer = JsonlWriter(self._path, key="log")
        return live, over

    def started(self, key: str, environment: str) -> None:
        self._write({"episode": key, "environment": environment})

    def called(self, key: str, turns: list[Turn], turn: int, place: int) -> None:
        """Record the result of the call at position `place` of a turn."""
        self._write(_call_line(key, turns, turn, place))

    def said(self, key: str, turns: list[Turn], turn: int) -> None:
        """Record a turn of text, with the results of its calls."""
        self._write(_text_line(key, turns, turn))

    def ended(self, key: str, reason: ErrorCode) -> None:
        self._write({"episode": key, "ended": reason})

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, line: dict[str, Any]) -> None:
        if self._writer is None:
            raise ValueError("call restore() before writing to the log")
        self._writer.write(line)


def _call_line(key: str, turns: list[Turn], turn: int, place: int) -> dict[str, Any]:
    call, result = turns[turn].calls[place], turns[turn].results[place]
    assert result is not None
    return {
        "episode": key,
        "turn": turn,
        "number": turns[turn].number,
        "place": place,
        "call": [call.name, call.arguments],
        "result": [result.status, result.output, result.seconds],
    }


def _text_line(key: str, turns: list[Turn], turn: int) -> dict[str, Any]:
    _, calls, results = turns[turn].written()
    return {
        "episode": key,
        "turn": turn,
        "text": turns[turn].text,
        "calls": [[call.name, call.arguments] for call in calls],
        "results": [[result.status, result.output, result.seconds] for result in results],
    }


def _lines(key: str, environment: str, turns: list[Turn]) -> Iterable[dict[str, Any]]:
    yield {"episode": key, "environment": environment}
    for number, turn in enumerate(turns):
        if turn.text is not None:
            yield _text_line(key, turns, number)
        else:
            for place, result in enumerate(turn.results):
                if result is not None:
                    yield _call_line(key, turns, number, place)


def _replay(live: dict[str, tuple[str, list[Turn]]], over: OrderedDict[str, ErrorCode], record: dict[str, Any]) -> None:
    key = record["episode"]
    if "environment" in record:
        live[key] = (record["environment"], [])
    elif "ended" in record:
        live.pop(key, None)
        over[key] = record["ended"]
    else:
        turns = live[key][1]
        while len(turns) <= record["turn"]:
            turns.append(Turn())
        turn = turns[record["turn"]]
        if "text" in record:
            turn.text = record["text"]
            turn.calls = [ToolCall(*call) for call in record["calls"]]
            turn.results = [ToolResult(call[0], *found) for call, found in _pairs(record)]
        else:
            turn.number = record["number"]
            missing = record["place"] + 1 - len(turn.calls)
            turn.calls += [ToolCall("", {})] * missing
            turn.results += [None] * missing
            turn.calls[record["place"]] = ToolCall(*record["call"])
            turn.results[record["place"]] = ToolResult(record["call"][0], *record["result"])


def _pairs(record: dict[str, Any]) -> Iterable[tuple[list[Any], list[Any]]]:
    return zip(record["calls"], record["results"], strict=True)
