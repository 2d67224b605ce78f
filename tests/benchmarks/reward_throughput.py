"""Responses scored per second: the sandbox compared with the published method, in the same run. Run by hand.

Inputs: environments (JSONL, the authors' format). Output: a table on stdout and, with --out, a JSON file.

The baseline works like the published code: it scores one response after another. For every call, it runs `compile` and
`exec` on the source in this process, in a new thread that is joined for at most 10 s. It uses our parsing, matching and
reward code, so the ratio measures only the execution of tools. Its results are compared with ours.

Workloads, each of `--responses` responses with 1-4 calls: `made` (100 synthetic tools of about 2 KB), `published` (the
environments of --environments), and `shuffled` (SHUFFLED environments in random order; if there are fewer, copies with
renamed tools, so that each has separate sources). `command` is the whole of `python -m reward.score`, start-up and
files included, on the shuffled responses, each with an environment record of its own. Worker start-up is measured
separately: a first pass over the tools brings every worker to its steady state during training, and is reported as
`cold`.

Figures: responses/s of wall time; responses per second of CPU time of all processes (`per core`); one response per call
from 64 threads, as OpenRLHF calls a reward function; latency of one call; cost of a kill; memory of a worker.

Example:
    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/reward_throughput.py --environments
    ../shared/data/ftrl_test_sample.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import Environment, ToolDocument, read_environments
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolResult, ToolSandbox
from reward.scoring import score_turn, score_turns
from reward.tool_calls import render_call
from train.policies.interface import random_arguments

Item = tuple[Environment, str]
PLACES = ("Arden", "Belmont", "Corvo", "Dunmore", "Elstow", "Farley", "Gorham", "Hadley", "Ivybridge", "Jarrow")
THREADS = 64
SHUFFLED = 160


# -- the published method ----------------------------------------------------------------------------------------------


class PublishedWay:
    """Replaces a sandbox: compile and exec per call, in this process, in a thread that cannot be stopped."""

    def stream(self, jobs: Iterable[SandboxJob], expected: int | None = None) -> Iterator[list[ToolResult]]:
        for job in jobs:
            yield [self._call(job.codes, call) for call in job.calls]

    def _call(self, codes: Mapping[str, str], call: ToolCall) -> ToolResult:
        outcome: list[tuple[str, str]] = []

        def work() -> None:
            try:
                namespace: dict[str, Any] = {}
                exec(compile(codes[call.name], "<string>", "exec"), namespace)
                value = namespace[call.name](**call.arguments)
                text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
                outcome.append(("ok", text))
            except Exception as error:
                outcome.append(("error", f"an error occured when call {call.name}: {error}"))

        start = time.perf_counter()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10.0)
        status, output = outcome[0] if outcome else ("timeout", "")
        return ToolResult(call.name, status, output, time.perf_counter() - start)


# -- workloads ---------------------------------------------------------------------------------------------------------


def synthetic_environments(count: int, seed: int) -> list[Environment]:
    """Environments of 5 tools each, about 2 KB of source per tool, similar to the published ones."""
    environments = []
    for number in range(count):
        rng = random.Random(f"{seed}:{number}:made")
        tools, codes, unsolved = [], {}, {}
        for position in range(5):
            name = f"record_finder_{number}_{position}"
            table = {
                place: {"population": rng.randrange(10**6), "founded": str(rng.randrange(1000, 1900))}
                for place in PLACES
            }
            codes[name] = _synthetic_source(name, table)
            tools.append(_synthetic_document(name))
            unsolved[name] = [str(table[rng.choice(PLACES)]["population"])]
        environments.append(
            Environment(
                messages=[{"role": "user", "content": f"Question: how many people live in {' and '.join(PLACES)}?"}],
                tools=tools,
                codes=codes,
                unsolved_set=unsolved,
                answer="42",
            )
        )
    return environments


def _synthetic_source(name: str, table: dict[str, Any]) -> str:
    records = json.dumps(table, indent=8)
    return f'''def {name}(place, field="population", year=None, detailed=False):
    """Find the record of a place.

    :param place: name of the place
    :param field: "population" or "founded"
    :param year: year of the census, 1900 to 2100
    :param detailed: whether to give the whole record
    """
    from datetime import datetime

    if not isinstance(place, str) or not place.strip():
        return {{"error": "Invalid place: a non-empty string is expected."}}
    if field not in ("population", "founded"):
        return {{"error": "Invalid field: expected 'population' or 'founded'."}}
    if year is not None:
        try:
            datetime.strptime(str(year), "%Y")
        except ValueError:
            return {{"error": "Invalid year: expected four digits."}}
    if not isinstance(detailed, bool):
        return {{"error": "Invalid value for detailed: expected a boolean."}}
    records = {records}
    for known, record in records.items():
        if known.lower() in place.lower():
            result = {{"place": known, field: record[field]}}
            if detailed:
                result["record"] = dict(record)
            return result
    return {{"error": "No record of {{}}.".format(place)}}
'''


def _synthetic_document(name: str) -> ToolDocument:
    properties = {
        "place": {"type": "string", "enum": list(PLACES)},
        "field": {"type": "string", "enum": ["population", "founded"]},
        "year": {"type": "integer", "minimum": 1900, "maximum": 2100},
        "detailed": {"type": "boolean"},
    }
    parameters = {"type": "object", "properties": properties, "required": ["place"]}
    return ToolDocument(name=name, description="Find the record of a place.", parameters=parameters)


def renamed_environments(environments: Sequence[Environment], count: int) -> list[Environment]:
    """`count` environments. From the second round on, tools have new names in documents, sources and gold."""
    made = []
    for number in range(count):
        environment, turn = environments[number % len(environments)], number // len(environments)
        if turn:
            text = json.dumps(environment.to_record())
            for tool in sorted(environment.tools, key=lambda tool: -len(tool.name)):
                text = re.sub(rf"\b{re.escape(tool.name)}\b", f"{tool.name}_{turn}", text)
            environment = Environment.from_record({**json.loads(text), "id": f"{environment.id}-{turn}"})
        made.append(environment)
    return made


def synthetic_responses(environments: Sequence[Environment], count: int, seed: int) -> list[Item]:
    """Responses of 1-4 schema-conforming calls to tools of their environment. Sub-answers are among the words."""
    items = []
    for number in range(count):
        rng = random.Random(f"{seed}:{number}:response")
        environment = environments[number % len(environments)]
        words = re.findall(r"\w+", environment.question)
        words += [answer for answers in environment.unsolved_set.values() for answer in answers]
        tools = rng.choices(environment.tools, k=rng.randint(1, 4))
        calls = [ToolCall(tool.name, random_arguments(tool.parameters, words, rng)) for tool in tools]
        items.append((environment, "I look it up.\n" + "\n".join(map(render_call, calls)) + "<|im_end|>"))
    return items


# -- measurements ------------------------------------------------------------------------------------------------------


def cpu_seconds() -> float:
    """CPU time of this process, its descendants, and the children that all of them have waited for."""
    ticks = 0
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):  # the process has just exited
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += sum(map(int, fields[11:15]))
    return sum(os.times()[:4]) + ticks / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Descendants of `pid`, from /proc."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has just exited
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def measured(score: Callable[[], Any], count: int) -> dict[str, float]:
    """Responses/s of wall time and of CPU time."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    score()
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    return {"per_s": count / wall, "per_core_s": count / cpu}


def from_threads(items: Sequence[Item], sandbox: Any) -> None:
    """Score one response per call from 64 threads."""

    def work(start: int) -> None:
        for item in items[start::THREADS]:
            score_turn(*item, sandbox=sandbox)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def best(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: max(run[key] for run in runs) for key in runs[0]}


def compare(name: str, items: Sequence[Item], workers: int, repeats: int, bar: tqdm[Any]) -> dict[str, Any]:
    """One workload: baseline, ours with 1 and with `workers` workers, and from threads. Best of `repeats`."""
    count = len(items)
    published: Any = PublishedWay()
    report: dict[str, Any] = {"responses": count}
    expected: list[float] = []
    runs = []
    for _ in range(repeats):
        with contextlib.redirect_stdout(io.StringIO()):  # many tools print
            runs.append(
                measured(lambda: expected.extend(s.reward for s in score_turns(items, sandbox=published)), count)
            )
        bar.update()
    report["baseline"] = best(runs)
    for number in sorted({1, workers}):
        with ToolSandbox(workers=number) as sandbox:
            batch = partial(score_turns, items, sandbox=sandbox)
            report[f"cold_{number}"] = measured(batch, count)
            scores = score_turns(items, sandbox=sandbox)
            report[f"differing_rewards_{number}"] = sum(
                s.reward != e for s, e in zip(scores, expected[:count], strict=True)
            )
            runs = [measured(batch, count) for _ in range(repeats)]
            report[f"workers_{number}"] = best(runs)
            bar.update()
            if number == workers:
                runs = [measured(partial(from_threads, items, sandbox), count) for _ in range(repeats)]
                report["threads_64"] = best(runs)
                bar.update()
    base, ours = report["baseline"], report[f"workers_{workers}"]
    report["ratio_wall"] = ours["per_s"] / base["per_s"]
    report["ratio_cold"] = report[f"cold_{workers}"]["per_s"] / base["per_s"]
    report["ratio_per_core"] = ours["per_core_s"] / base["per_core_s"]
    report["ratio_threads"] = report["threads_64"]["per_s"] / base["per_s"]
    report["growth_1_to_n"] = ours["per_s"] / report["workers_1"]["per_s"]
    return report


def command(items: Sequence[Item], workers: int, repeats: int, baseline_per_s: float) -> dict[str, Any]:
    """`python -m reward.score` on responses that each have an environment record of their own. Best of `repeats`."""
    with tempfile.TemporaryDirectory(prefix="reward-throughput-") as folder:
        files = {name: Path(folder) / f"{name}.jsonl" for name in ("environments", "responses", "out")}
        with files["environments"].open("w", encoding="utf-8") as records, files["responses"].open("w") as responses:
            for number, (environment, response) in enumerate(items):
                record = environment.to_record() | {"id": f"r{number}"}
                records.write(json.dumps(record, ensure_ascii=False) + "\n")
                responses.write(json.dumps({"id": f"r{number}", "response": response}) + "\n")
        line = [sys.executable, "-m", "reward.score", "--workers", str(workers)]
        line += [part for name, path in files.items() for part in (f"--{name}", str(path))]
        report: dict[str, Any] = {
            "responses": len(items),
            "kb_per_record": files["environments"].stat().st_size / 1000 / len(items),
        }
        runs = []
        for _ in range(repeats):
            files["out"].unlink(missing_ok=True)
            runs.append(measured(lambda: subprocess.run(line, check=True, stdout=subprocess.DEVNULL), len(items)))
    report["command"] = best(runs)
    report["ratio_wall"] = report["command"]["per_s"] / baseline_per_s
    return report


def single_calls(item: Item) -> dict[str, float]:
    """Latency of one call (ms), cost of a kill (ms beyond the limit), memory of processes (MiB)."""
    environment, _ = item
    tool = environment.tools[0]
    rng = random.Random("0:0:latency")
    limit = 0.3
    with ToolSandbox(workers=1, timeout_s=limit) as sandbox:
        call = [ToolCall(tool.name, random_arguments(tool.parameters, ["Arden"], rng))]
        unproven = {tool.name: "import os\n" + environment.codes[tool.name]}
        figures: dict[str, float] = {}
        for name, codes, count in (("proven", environment.codes, 3000), ("isolated", unproven, 300)):
            times = [_timed(sandbox, codes, call) for _ in range(count)]
            cuts = statistics.quantiles(times, n=100)
            figures |= {f"{name}_p50_ms": cuts[49], f"{name}_p99_ms": cuts[98]}
        hang = {"hang": "def hang():\n    while True: pass"}
        figures["kill_ms"] = statistics.median(
            _timed(sandbox, hang, [ToolCall("hang", {})]) - 1000 * limit for _ in range(10)
        )
        figures["call_after_kill_ms"] = statistics.median(
            _after_kill(sandbox, hang, environment.codes, call) for _ in range(10)
        )
        for pid, name in zip(descendants(os.getpid()), ("zygote", "runner"), strict=False):
            figures[f"{name}_rss_mib"] = _memory(pid, "Rss")
            figures[f"{name}_pss_mib"] = _memory(pid, "Pss")
    return figures


def _timed(sandbox: ToolSandbox, codes: Mapping[str, str], calls: list[ToolCall]) -> float:
    start = time.perf_counter()
    sandbox.run(codes, calls)
    return 1000 * (time.perf_counter() - start)


def _after_kill(sandbox: ToolSandbox, hang: Mapping[str, str], codes: Mapping[str, str], call: list[ToolCall]) -> float:
    sandbox.run(hang, [ToolCall("hang", {})])
    return _timed(sandbox, codes, call)


def _memory(pid: int, kind: str) -> float:
    """Resident memory of a process. `Pss` divides shared pages among processes. NaN if the kernel hides it."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return float("nan")
    found = re.search(rf"^{kind}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Measure responses scored per second against the published method.",
        epilog="example: PYTHONPATH=. python tests/benchmarks/reward_throughput.py --environments ENV.jsonl "
        "--out speed.json",
    )
    parser.add_argument("--environments", required=True, help="environments, JSONL in the authors' format")
    parser.add_argument("--responses", type=int, default=5000, help="responses per workload (default %(default)s)")
    parser.add_argument(
        "--command-responses", type=int, default=9600, help="responses of workload `command` (default %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=2, help="runs of each measurement; the best counts (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    made = synthetic_environments(20, arguments.seed)
    published = list(read_environments(arguments.environments))
    workloads = {"made": made, "published": published, "shuffled": renamed_environments(published, SHUFFLED)}
    report: dict[str, Any] = {}
    with tqdm(total=len(workloads) * (arguments.repeats + 1 + len({1, arguments.workers}))) as bar:
        for name, environments in workloads.items():
            items = synthetic_responses(environments, arguments.responses, arguments.seed)
            if name == "shuffled":
                random.Random(arguments.seed).shuffle(items)
            report[name] = compare(name, items, arguments.workers, arguments.repeats, bar)
    baseline = report["shuffled"]["baseline"]["per_s"]
    own_records = [items[number % len(items)] for number in range(arguments.command_responses)]
    report["command"] = command(own_records, arguments.workers, arguments.repeats, baseline)
    report["single"] = single_calls(synthetic_responses(made, 1, arguments.seed)[0])
    for name, figures in report.items():
        print(name)
        for key, value in figures.items():
            shown = "  ".join(f"{k} {v:,.0f}" for k, v in value.items()) if isinstance(value, dict) else f"{value:,.2f}"
            print(f"  {key:22} {shown}")
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    run_main(main)
