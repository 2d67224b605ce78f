"""Score responses to environments: one line in, one reward with its parts out.

In:  --environments ENV.jsonl  environments (the authors' format, with an `id`)
     --responses RESP.jsonl    lines {"id": environment, "response": the model turn as text}; an id may come often
Out: --out S.jsonl             lines {"id", "reward", "kind", "p", "q", "t", "fault"}, in the order of the responses

p: tool calls, q: sub-questions that they solve, t: unsolved before the turn. `--explain` also prints, for each call, what came
back and which sub-answer it solved.

Example:
    python -m reward.score --environments env.jsonl --responses resp.jsonl --variant solve_f1 --match published --out S.jsonl
Source: paper section 3.2; paper/README.md, "Reward for one model turn".
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, read_jsonl, run_main, write_jsonl
from env_construction.environment.matching import MATCHES
from env_construction.environment.record_files import read_records
from env_construction.environment.schema import Environment, require_schemas
from env_construction.sandbox.processes import SandboxFault
from env_construction.sandbox.tool_sandbox import ToolSandbox
from reward.rewards import REWARDS
from reward.scoring import TurnScore, check_gold, score_turns

_BATCH = 2048
_SHOWN = 400


def read_gold(path: Path, match: str) -> dict[str, Environment]:
    """The environments of a file by id. Raises BadInput for a bad line, an id twice, or (strict) an empty gold answer."""
    environments: dict[str, Environment] = {}
    with collector_off():
        _read_gold(path, match, environments)
    if not environments:
        raise BadInput(f"{path}: expected at least one environment, the file is empty")
    return environments


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Reading makes many objects and no cycles; the collector would walk through all of them again and again (two thirds
    of the time for 5,000 environments). What was read is then frozen, since it stays to the end."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_on:
            gc.enable()


def _read_gold(path: Path, match: str, environments: dict[str, Environment]) -> None:
    read: dict[tuple[str, str], Any] = {}  # many records hold the same tools and codes: their texts are read once
    for where, record in read_records(path):
        texts = {key: record[key] for key in ("tools", "codes") if isinstance(record.get(key), str)}
        known = {key: read[key, text] for key, text in texts.items() if (key, text) in read}
        environment = Environment.from_record({**record, **known}, where=where)
        read.update({(key, text): getattr(environment, key) for key, text in texts.items() if key not in known})
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
    for number, record in read_jsonl(path, required=("id", "response")):
        identity, response = record["id"], record["response"]
        if not isinstance(response, str):
            raise BadInput(f"{path}:{number}: key 'response': expected a string, got {type(response).__name__}")
        if not isinstance(identity, str) or identity not in environments:
            raise BadInput(f"{path}:{number}: key 'id': no environment has the id {identity!r}")
        items.append((environments[identity], response))
    return items


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
    environments = read_gold(arguments.environments, arguments.match)
    items = read_responses(arguments.responses, environments)

    kinds: Counter[str] = Counter()
    total = {"reward": 0.0, "faults": 0.0}

    def rows(sandbox: ToolSandbox) -> Iterator[dict[str, Any]]:
        with tqdm(total=len(items), unit="response", desc="score") as progress:
            for start in range(0, len(items), _BATCH):
                batch = items[start : start + _BATCH]
                scores = score_turns(batch, variant=arguments.variant, match=arguments.match, sandbox=sandbox)
                for (environment, _), score in zip(batch, scores, strict=True):
                    if arguments.explain:
                        tqdm.write(explain(environment, score))
                    kinds[score.kind] += 1
                    total["reward"] += score.reward
                    total["faults"] += score.fault
                    yield {
                        "id": environment.id,
                        "reward": score.reward,
                        "kind": score.kind,
                        "p": score.p,
                        "q": score.q,
                        "t": score.t,
                        "fault": score.fault,
                    }
                progress.update(len(batch))

    with open_sandbox(arguments.workers, arguments.require_isolation) as sandbox:
        count = write_jsonl(arguments.out, rows(sandbox))
    mean = f"mean reward {total['reward'] / count:.4f}; " if count else ""
    shown = ", ".join(f"{kind} {number}" for kind, number in kinds.most_common()) or "none"
    print(f"wrote {arguments.out}: {count} responses; {mean}kinds: {shown}; sandbox faults: {int(total['faults'])}")
    return 0


def command() -> None:
    """The console script."""
    run_main(main)


if __name__ == "__main__":
    command()
