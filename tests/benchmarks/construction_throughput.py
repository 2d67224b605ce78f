"""Verified environments per second of one process, by level, and the time of each part. Run by hand.

Also reports the rate relative to drafting without verification in the same run, which is comparable across machines.

Example:
    python tests/benchmarks/construction_throughput.py --n 1024 --profile
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from env_construction.building.author import Rejected
from env_construction.building.environment_builder import BuildConfiguration, build_unverified, new_draft
from env_construction.building.workers import ChunkBuilder
from env_construction.facts.levels import LEVELS

CHUNK = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=512, help="environments per level (default: 512)")
    parser.add_argument("--level", action="append", choices=list(LEVELS), help="only this level (repeatable)")
    parser.add_argument("--profile", action="store_true", help="print the functions that take the most time")
    arguments = parser.parse_args()
    builder = ChunkBuilder("facts")
    with builder.sandbox:
        for level in arguments.level or LEVELS:
            configuration = BuildConfiguration("facts", level, 1)
            builder.chunk((configuration, "train", list(range(CHUNK))))
            drafted = drafts_per_second(builder, configuration, arguments.n)
            profile = cProfile.Profile()
            if arguments.profile:
                profile.enable()
            started, cpu = time.perf_counter(), time.process_time()
            for start in range(0, arguments.n, CHUNK):
                builder.chunk((configuration, "train", list(range(start, min(start + CHUNK, arguments.n)))))
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            profile.disable()
            rate = arguments.n / seconds
            print(
                f"{level}: {rate:.0f} verified environments/s ({3600 * rate:,.0f} per hour), "
                f"{rate / drafted:.2f} of the rate without verification; {cpu / seconds:.0%} of the time in this "
                "process, the remaining time in the sandbox's"
            )
            if arguments.profile:
                pstats.Stats(profile).sort_stats("cumulative").print_stats(25)


def drafts_per_second(builder: ChunkBuilder, configuration: BuildConfiguration, number: int) -> float:
    started = time.perf_counter()
    for index in range(number):
        try:
            build_unverified(builder.author, new_draft(configuration, "train", index, 0))
        except Rejected:
            continue
    return number / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
