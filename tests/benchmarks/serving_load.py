"""Tool calls per second of the episode server, in process and over HTTP on loopback, with many live episodes.

First: fresh episodes per second. Each gets its own copy of the environment's state, makes one call and is dropped. Then
each live episode makes one call after another. Every call runs in the sandbox. Prints calls per second of wall time and
of CPU time, p50 and p99 of the request latency in milliseconds, and the memory per live episode. CPU time includes all
processes of the server; the CPU time of the HTTP client is reported separately. On a busy machine, only the figures per
CPU second are meaningful. Each part runs for --seconds.

Example:
    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/serving_load.py --data env.jsonl --episodes 4096 --seconds 5
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
from reward_throughput import cpu_seconds, descendants

from env_construction.environment.schema import Environment, write_environments
from reward.score import read_gold
from serving.episodes.errors import EpisodeError
from serving.episodes.server import EpisodeServer, Limits

BATCH = 512
IN_FLIGHT = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="environments with gold plans")
    parser.add_argument("--episodes", type=int, default=4096, help="live episodes (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each part (default %(default)s)")
    parser.add_argument(
        "--isolated", action="store_true", help="change every tool so that the sandbox runs it in a separate process"
    )
    arguments = parser.parse_args()
    environments = {key: item for key, item in read_gold(arguments.data, "strict").items() if item.gold_plan}
    if arguments.isolated:
        environments = {key: _unproven(item) for key, item in environments.items()}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "environments.jsonl"
        write_environments(data, list(environments.values()))
        fresh_episodes(environments, arguments.seconds)
        in_process(environments, arguments.episodes, arguments.seconds)
        asyncio.run(over_http(data, environments, arguments.episodes, arguments.seconds))


def _unproven(environment: Environment) -> Environment:
    """The environment with tools that the sandbox cannot prove harmless, because they import `sys`."""
    codes = {name: code + "\nimport sys\n" for name, code in environment.codes.items()}
    return environment.model_copy(update={"codes": codes})


def fresh_episodes(environments: dict[str, Environment], seconds: float) -> None:
    server = EpisodeServer(environments, limits=Limits(episodes=BATCH))
    indices = itertools.cycle(range(len(environments)))
    begun, start, cpu = 0, time.monotonic(), cpu_seconds()
    while time.monotonic() - start < seconds:
        keys = [server.reset(index=next(indices)).episode for _ in range(BATCH)]
        first = [(key, server.environment_of(key).gold_plan[0]) for key in keys]
        results = server.call_many([(key, gold.name, gold.arguments, None) for key, gold in first])
        assert not any(isinstance(item, EpisodeError) or not item.ok for item in results)
        for key in keys:
            server.drop(key)
        begun += BATCH
    took, used = time.monotonic() - start, cpu_seconds() - cpu
    print(
        f"fresh episodes with one call: {begun / took:,.0f}/s, {begun / used:,.0f} per CPU second; {begun:,} episodes"
    )


def in_process(environments: dict[str, Environment], episodes: int, seconds: float) -> None:
    server = EpisodeServer(environments, limits=Limits(calls=10**9, episodes=episodes))
    before = _memory()
    keys = [server.reset(index=number % len(environments)).episode for number in range(episodes)]
    memory = (_memory() - before) / episodes
    calls = itertools.cycle(
        [(key, gold.name, gold.arguments, None) for key in keys for gold in server.environment_of(key).gold_plan[:1]]
    )
    took: list[float] = []
    made, start, cpu = 0, time.monotonic(), cpu_seconds()
    while time.monotonic() - start < seconds:
        batch = [next(calls) for _ in range(min(BATCH, episodes))]
        begun = time.monotonic()
        results = server.call_many(batch)
        took.append(time.monotonic() - begun)
        assert not any(isinstance(item, EpisodeError) or not item.ok for item in results)
        made += len(batch)
    _report(f"in process, batches of {len(batch)}", made, time.monotonic() - start, cpu_seconds() - cpu, took)
    took, start, cpu = [], time.monotonic(), cpu_seconds()
    while time.monotonic() - start < seconds:
        key, name, values, turn = next(calls)
        begun = time.monotonic()
        assert server.call(key, name, values, turn).ok
        took.append(time.monotonic() - begun)
    _report("in process, one after the other", len(took), time.monotonic() - start, cpu_seconds() - cpu, took)
    made += len(took)
    later = (_memory() - before) / episodes
    print(
        f"memory of a live episode: {memory / 1024:.1f} KiB before its first call, {later / 1024:.1f} KiB after "
        f"{made / episodes:.1f} calls; live: {server.live()}"
    )


async def over_http(data: Path, environments: dict[str, Environment], episodes: int, seconds: float) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "serving.serve", "--data", str(data), "--port", str(port)]
    process = subprocess.Popen([*command, "--workers", "1", "--max-calls", str(10**9), "--episodes", str(episodes)])
    took: list[float] = []
    try:
        connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as client:
            for _ in range(300):
                try:
                    await client.get("/splits")
                    break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
            names = list(environments)
            keys = []
            for number in range(episodes):
                name = names[number % len(names)]
                async with client.post("/episodes", json={"id": name}) as answer:
                    keys.append(((await answer.json())["episode"], environments[name].gold_plan[0]))
            queue = itertools.cycle(keys)
            start, cpu, own = time.monotonic(), _cpu_of(process.pid), time.process_time()

            async def play() -> None:
                while time.monotonic() - start < seconds:
                    key, gold = next(queue)
                    body = {"name": gold.name, "arguments": gold.arguments}
                    begun = time.monotonic()
                    async with client.post(f"/episodes/{key}/calls", json=body) as answer:
                        assert (await answer.json())["status"] == "ok"
                    took.append(time.monotonic() - begun)

            await asyncio.gather(*(play() for _ in range(min(IN_FLIGHT, episodes))))
            used, own = _cpu_of(process.pid) - cpu, time.process_time() - own
            _report(f"over HTTP, {IN_FLIGHT} connections", len(took), time.monotonic() - start, used, took)
            print(f"the client itself used {own:.2f} s of CPU time, the server {used:.2f} s")
    finally:
        process.terminate()
        process.wait()


def _report(name: str, calls: int, seconds: float, cpu: float, took: list[float]) -> None:
    took.sort()
    p50, p99 = (1000 * took[int(share * (len(took) - 1))] for share in (0.5, 0.99))
    print(
        f"{name}: {calls / seconds:,.0f} calls/s, {calls / cpu:,.0f} per CPU second; p50 {p50:.1f} ms, "
        f"p99 {p99:.1f} ms; {calls:,} calls; load average {os.getloadavg()[0]:.1f}"
    )


def _cpu_of(pid: int) -> float:
    """CPU seconds of a process, of its descendants, and of the children that they have waited for."""
    ticks = 0
    for each in [pid, *descendants(pid)]:
        fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory() -> int:
    """Resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
