"""Score responses to environments: one line in, one reward with its parts out.

In:  --environments ENV.jsonl  environments (the authors' format, with an `id`)
     --responses RESP.jsonl    lines {"id": environment, "response": the model turn as text}; an id may come often
Out: --out S.jsonl             lines {"id", "reward", "kind", "p", "q", "t", "fault"}, in the order of the responses

p: tool calls, q: sub-questions that they solve, t: unsolved before the turn. `--explain` also prints, for each call,
what came back and which sub-answer it solved. A large file of environments is read by several processes, each of which
scores the responses to its own (`SHARE_BYTES`); the result is the same.

Example:
    python -m reward.score --environments env.jsonl --responses resp.jsonl --variant solve_f1 --match published \\
        --out S.jsonl
Source: paper section 3.2; paper/README.md, "Reward for one model turn".
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, read_jsonl, run_main, write_jsonl
from env_construction.environment.matching import MATCHES
from env_construction.environment.record_files import is_parquet, read_records
from env_construction.environment.schema import Environment, require_schemas
from env_construction.sandbox.processes import SandboxFault
from env_construction.sandbox.tool_sandbox import ToolSandbox
from reward.rewards import REWARDS
from reward.scoring import TurnScore, check_gold, score_turns

Row = tuple[dict[str, Any], str]
SHARE_BYTES = 32 << 20
"""A process more for each so many bytes of environments."""
_BATCH = 2048
_MARK = 200
_SHOWN = 400


def read_gold(path: Path, match: str, share: tuple[int, int] = (0, 1)) -> dict[str, Environment]:
    """The environments of a file, or of a share of its lines, by id.

    Raises BadInput for a bad line, an id twice, or (strict) an empty gold answer.
    """
    environments: dict[str, Environment] = {}
    with collector_off():
        _read_gold(path, match, share, environments)
    if not environments:
        raise BadInput(f"{path}: expected at least one environment, the file is empty")
    return environments


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Reading makes many objects and no cycles; the collector would walk through all of them again and again (two
    thirds of the time for 5,000 environments). What was read is then frozen, since it stays to the end."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_on:
            gc.enable()


def _read_gold(path: Path, match: str, share: tuple[int, int], environments: dict[str, Environment]) -> None:
    read: dict[tuple[str, ...], tuple[str, Any]] = {}  # many records hold the same tools and codes: they are read once
    for where, record in read_records(path, share):
        texts = {key: record[key] for key in ("tools", "codes") if isinstance(record.get(key), str)}
        # to compare two long texts takes a tenth of the time that hashing one takes
        marks = {key: (key, text[:_MARK], text[-_MARK:]) for key, text in texts.items()}
        known = {key: read[mark][1] for key, mark in marks.items() if read.get(mark, ("",))[0] == texts[key]}
        environment = Environment.from_record({**record, **known}, where=where)
        read.update({marks[key]: (text, getattr(environment, key)) for key, text in texts.items() if key not in known})
        if "tools" not in known:
            require_schemas(environment, where)
        if environment.id in environments:
            raise BadInput(
                f"{where}: key 'id': {environment.id!r} stands in the file twice, expected one line for each id"
            )
        if match == "strict":
            check_gold(environment, where=where)
        environments[environment.id] = environment


def read_responses(path: Path, environments: dict[str, Environment]) -> list[tuple[Environment, str]]:
    """Each response with its environment, in order. Raises BadInput for a bad line or an unknown id."""
    items = []
    for number, identity, response in _located_responses(path):
        if identity not in environments:
            raise BadInput(f"{path}:{number}: key 'id': no environment has the id {identity!r}")
        items.append((environments[identity], response))
    return items


def _located_responses(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, id and text of each response."""
    for number, record in read_jsonl(path, required=("id", "response")):
        identity, response = record["id"], record["response"]
        if not isinstance(response, str):
            raise BadInput(f"{path}:{number}: key 'response': expected a string, got {type(response).__name__}")
        if not isinstance(identity, str):
            raise BadInput(f"{path}:{number}: key 'id': no environment has the id {identity!r}")
        yield number, identity, response


def open_sandbox(workers: int, require_isolation: bool) -> ToolSandbox:
    """The sandbox as a script's options ask for it. Raises BadInput where that cannot be had."""
    if workers < 1:
        raise BadInput(f"--workers {workers}: expected at least 1")
    try:
        return ToolSandbox(workers=workers, require_isolation=require_isolation)
    except SandboxFault as error:
        raise BadInput(f"the sandbox does not start: {error}") from None


def explain(environment: Environment, score: TurnScore) -> str:
    """Several lines: the turn's reward, then each call with what came back and the sub-answer that it solved."""
    head = f"p={score.p} q={score.q} t={score.t}" + (" SANDBOX FAULT" if score.fault else "")
    lines = [f"{environment.id}: reward {score.reward:.4f} ({score.kind}; {head})"]
    for number, (call, result, solved) in enumerate(
        zip(score.parsed.calls, score.results, score.solved, strict=True), start=1
    ):
        lines.append(f"  call {number}: {call.name}({_short(json.dumps(call.arguments, ensure_ascii=False))})")
        lines.append(f"    {result.status}: {_short(result.output)}")
        lines.append(f"    solves {', '.join(map(repr, solved))}" if solved else "    solves nothing")
    lines.extend(f"  not a call: {_short(block)}" for block in score.parsed.malformed)
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode("utf-8")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def score_rows(
    items: list[tuple[Environment, str]],
    arguments: argparse.Namespace,
    sandbox: ToolSandbox,
    tell: Callable[[int], object],
) -> Iterator[Row]:
    """The line of each response, with its explanation if one is asked for. `tell` hears how many are done."""
    for start in range(0, len(items), _BATCH):
        batch = items[start : start + _BATCH]
        scores = score_turns(batch, variant=arguments.variant, match=arguments.match, sandbox=sandbox)
        for (environment, _), score in zip(batch, scores, strict=True):
            shown = ("reward", "kind", "p", "q", "t", "fault")
            row = {"id": environment.id, **{key: getattr(score, key) for key in shown}}
            yield row, explain(environment, score) if arguments.explain else ""
        tell(len(batch))


def score_in_shares(arguments: argparse.Namespace, shares: int) -> list[Row] | None:
    """The lines of all responses, in order. Each of `shares` processes reads a part of the environments and scores the
    responses to them: reading 30 KB of record takes longer than scoring a response.

    None where anything is wrong with the input: `main` then reads it in one process, and says what and where.
    """
    context = multiprocessing.get_context("fork")
    channels: list[Any] = []
    processes = []
    for share in range(shares):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_score_share, args=(theirs, arguments, (share, shares)), daemon=True)
        process.start()
        theirs.close()
        channels.append(ours)
        processes.append(process)
    rows: dict[int, Row] = {}
    identities: list[str] = []
    count = 0
    with tqdm(unit="response", desc="score") as progress, contextlib.suppress(EOFError):
        while channels:
            ready: list[Any] = list(wait(channels))
            for channel in ready:
                message = channel.recv()
                if isinstance(message, int):
                    progress.update(message)
                    continue
                read, count, part = message
                identities += read
                rows |= part
                channels.remove(channel)
    for process in processes:
        if channels:
            process.terminate()
        process.join()
    whole = not channels and len(set(identities)) == len(identities) and len(rows) == count
    return [rows[place] for place in range(count)] if whole else None


def _score_share(channel: Any, arguments: argparse.Namespace, share: tuple[int, int]) -> None:
    """Body of a process: send how many responses are done, and at the end the ids of the environments, the number of
    all responses, and the lines of those to these environments by place. It ends without a word where the input is
    bad."""
    try:
        environments = read_gold(arguments.environments, arguments.match, share)
        responses = [(identity, text) for _, identity, text in _located_responses(arguments.responses)]
        own = {
            place: (environments[identity], text)
            for place, (identity, text) in enumerate(responses)
            if identity in environments
        }
        with open_sandbox(-(-arguments.workers // share[1]), arguments.require_isolation) as sandbox:
            rows = list(score_rows(list(own.values()), arguments, sandbox, channel.send))
        channel.send((list(environments), len(responses), dict(zip(own, rows, strict=True))))
    except BadInput:
        channel.close()


def shares_of(arguments: argparse.Namespace) -> int:
    """How many processes read and score: one, unless there is much to read. Raises BadInput if there is no such
    file."""
    if is_parquet(arguments.environments) or "fork" not in multiprocessing.get_all_start_methods():
        return 1
    return max(1, min(arguments.workers, arguments.environments.stat().st_size // SHARE_BYTES))


def main() -> int:
    parser = ScriptParser(__doc__, "python -m reward.score")
    parser.add_argument("--environments", type=Path, required=True, metavar="ENV.jsonl")
    parser.add_argument("--responses", type=Path, required=True, metavar="RESP.jsonl")
    parser.add_argument("--variant", choices=list(REWARDS), default="solve_f1", help="row of the reward table")
    parser.add_argument("--match", choices=list(MATCHES), default="published", help="how outputs are matched")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="S.jsonl", help="written whole at the end, or not at all"
    )
    parser.add_argument("--explain", action="store_true", help="print every call, its output and what it solved")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="sandbox processes (default: all cores)"
    )
    parser.add_argument(
        "--require-isolation", action="store_true", help="refuse to run where a sandbox layer is missing"
    )
    arguments = parser.parse_args()
    if arguments.out.is_dir() or arguments.out.resolve() in (
        arguments.environments.resolve(),
        arguments.responses.resolve(),
    ):
        raise BadInput(f"--out {arguments.out}: expected a file that is neither an input nor a folder")
    shares = shares_of(arguments)
    scored = score_in_shares(arguments, shares) if shares > 1 else None
    if scored is None:
        environments = read_gold(arguments.environments, arguments.match)
        items = read_responses(arguments.responses, environments)
        with (
            open_sandbox(arguments.workers, arguments.require_isolation) as sandbox,
            tqdm(total=len(items), unit="response", desc="score") as progress,
        ):
            scored = list(score_rows(items, arguments, sandbox, progress.update))
    for _, explanation in scored:
        if explanation:
            print(explanation)
    rows = [row for row, _ in scored]
    count = write_jsonl(arguments.out, rows)
    kinds = Counter(row["kind"] for row in rows)
    total = {key: sum(row[key] for row in rows) for key in ("reward", "fault")}
    mean = f"mean reward {total['reward'] / count:.4f}; " if count else ""
    shown = ", ".join(f"{kind} {number}" for kind, number in kinds.most_common()) or "none"
    print(f"wrote {arguments.out}: {count} responses; {mean}kinds: {shown}; sandbox faults: {total['fault']}")
    return 0


def command() -> None:
    """The console script."""
    run_main(main)


if __name__ == "__main__":
    command()
