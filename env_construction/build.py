"""Build verified environments: all five stages over many indices, in parallel, resumable.

In: nothing but a seed (fact author). Out: `train.jsonl`, `dev.jsonl`, `test.jsonl`, `statistics.json` in --out. The bytes
depend on the seed alone, not on --workers and not on being killed: environment i is a function of (seed, split, i),
lines are written in order of i, and a second call goes on after the last whole line.

Example:
    python -m env_construction.build --author facts --level compact --n-train 300 --n-dev 60 --n-test 100 --seed 1 \
        --workers 2 --out outputs/demo/environments

Paper section 3.1 (automated environment construction).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from env_construction.author import STRATEGIES, Author, Draft, Rejected
from env_construction.complexity_scaling import scale_complexity
from env_construction.document_generation import generate_documents
from env_construction.fact_author import FactAuthor
from env_construction.function_integration import integrate_functions
from env_construction.jsonl import JsonlWriter, keep_configuration, run_main
from env_construction.levels import LEVELS
from env_construction.localized_deployment import complete_environment, deploy_tools
from env_construction.scenario_decomposition import decompose
from env_construction.schema import SCENARIOS, Environment, Split
from env_construction.tool_sandbox import ToolSandbox
from env_construction.validation import validate_environments

CHUNK = 64
ATTEMPTS = 40


@dataclass(frozen=True)
class BuildConfiguration:
    """What an environment depends on besides its split and index."""

    author: str
    level: str
    seed: int
    strategies: tuple[str, ...] = STRATEGIES
    counterfactual: str = "auto"


@dataclass
class Built:
    """One accepted environment with what it took: rejections by rule, and flags."""

    index: int
    environment: Environment
    rejections: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)


def is_counterfactual(configuration: BuildConfiguration, split: Split, index: int) -> bool:
    """`auto`: permuted facts in train and dev; in test every other round of the four scenarios keeps real facts."""
    if configuration.counterfactual == "auto":
        return split != "test" or (index // len(SCENARIOS)) % 2 == 0
    return configuration.counterfactual == "on"


def draft_environment(
    author: Author, configuration: BuildConfiguration, split: Split, index: int, attempt: int
) -> Environment:
    """All five stages. Raises Rejected. Real facts give way to permuted ones after half of the attempts."""
    wanted = is_counterfactual(configuration, split, index)
    draft = Draft(
        id=f"{configuration.author}-{configuration.level}-{configuration.seed}-{split}-{index:07d}",
        seed=configuration.seed,
        split=split,
        index=index,
        attempt=attempt,
        level=configuration.level,
        scenario=SCENARIOS[index % len(SCENARIOS)],
        author=configuration.author,
        strategies=list(configuration.strategies),
        counterfactual=wanted or (configuration.counterfactual == "auto" and attempt >= ATTEMPTS // 2),
    )
    decompose(author, draft)
    generate_documents(author, draft)
    integrate_functions(author, draft)
    scale_complexity(author, draft)
    deploy_tools(author, draft)
    return complete_environment(author, draft)


def build_chunk(
    author: Author,
    configuration: BuildConfiguration,
    split: Split,
    indices: list[int],
    sandbox: ToolSandbox,
    first_attempt: dict[int, int] | None = None,
) -> list[Built]:
    """Build and validate the environments of `indices`, each with as many attempts as it takes (at most ATTEMPTS).

    Raises Rejected("attempts_exhausted") with the rules that stood in the way.
    """
    attempts = {index: (first_attempt or {}).get(index, 0) for index in indices}
    rejections: dict[int, Counter[str]] = {index: Counter() for index in indices}
    done: dict[int, Built] = {}
    while len(done) < len(indices):
        drafted: list[tuple[int, Environment]] = []
        for index in indices:
            while index not in done:
                if attempts[index] >= ATTEMPTS:
                    raise Rejected("attempts_exhausted", f"{split} {index}: {dict(rejections[index])}")
                attempts[index] += 1
                try:
                    drafted.append((index, draft_environment(author, configuration, split, index, attempts[index] - 1)))
                    break
                except Rejected as rejected:
                    rejections[index][rejected.rule] += 1
        findings = validate_environments([environment for _, environment in drafted], sandbox)
        for (index, environment), found in zip(drafted, findings, strict=True):
            fatal = [item.rule for item in found if item.fatal]
            if fatal:
                rejections[index][fatal[0]] += 1
            else:
                flags = Counter(item.rule for item in found)
                if flags:
                    environment.provenance["flags"] = sorted(flags)
                done[index] = Built(index, environment, rejections[index], flags)
    return [done[index] for index in indices]


def content_key(environment: Environment) -> bytes:
    """8 bytes that two environments with the same question share."""
    question = environment.question.split("Question: ", 1)[-1]
    return hashlib.blake2b(question.encode("utf-8", "surrogatepass"), digest_size=8).digest()


_WORKER: dict[str, object] = {}


def _start_worker() -> None:
    _WORKER["sandbox"] = ToolSandbox(workers=1)
    _WORKER["author"] = FactAuthor()


def _build_in_worker(job: tuple[BuildConfiguration, Split, list[int]]) -> list[Built]:
    configuration, split, indices = job
    return build_chunk(_WORKER["author"], configuration, split, indices, _WORKER["sandbox"])  # type: ignore[arg-type]


def build_split(configuration: BuildConfiguration, split: Split, count: int, workers: int, path: Path) -> Counter[str]:
    """Write `count` environments to `path`, going on after what is there. Returns counts: environments and rejections by rule."""
    counts: Counter[str] = Counter()
    author = FactAuthor()
    seen: set[bytes] = set()
    with JsonlWriter(path) as out, ToolSandbox(workers=1) as sandbox:
        written = 0
        if out.done:
            from env_construction.schema import read_environments

            for environment in read_environments(path):
                seen.add(content_key(environment))
                written += 1
        jobs = [
            (configuration, split, list(range(start, min(start + CHUNK, count))))
            for start in range(written, count, CHUNK)
        ]
        with tqdm(total=count, initial=written, desc=split, unit="env", disable=None) as bar:
            for chunk in _chunks(jobs, workers, author, sandbox):
                for built in chunk:
                    built = _without_duplicates(author, configuration, split, built, seen, sandbox, counts)
                    out.write(built.environment.to_record())
                    counts["environments"] += 1
                    counts.update({f"rejected:{rule}": number for rule, number in built.rejections.items()})
                    counts.update({f"flagged:{rule}": number for rule, number in built.flags.items()})
                    bar.update()
    return counts


def _without_duplicates(
    author: Author,
    configuration: BuildConfiguration,
    split: Split,
    built: Built,
    seen: set[bytes],
    sandbox: ToolSandbox,
    counts: Counter[str],
) -> Built:
    """The environment itself, or a later attempt at the same index if its question was asked before."""
    while (key := content_key(built.environment)) in seen:
        counts["rejected:duplicate"] += 1
        attempt = built.environment.provenance["attempt"] + 1
        built = build_chunk(author, configuration, split, [built.index], sandbox, {built.index: attempt})[0]
    seen.add(key)
    return built


def _chunks(
    jobs: list[tuple[BuildConfiguration, Split, list[int]]], workers: int, author: Author, sandbox: ToolSandbox
) -> Iterator[list[Built]]:
    if workers == 1:
        for configuration, split, indices in jobs:
            yield build_chunk(author, configuration, split, indices, sandbox)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_start_worker) as pool:
        yield from pool.imap(_build_in_worker, jobs)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--author", default="facts", choices=["facts"], help="who writes (default: facts)")
    parser.add_argument("--level", default="compact", choices=list(LEVELS), help="complexity (default: compact)")
    parser.add_argument("--n-train", type=int, default=300, help="training environments (default: 300)")
    parser.add_argument("--n-dev", type=int, default=60, help="dev environments (default: 60)")
    parser.add_argument("--n-test", type=int, default=100, help="test environments (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="all randomness comes from it (default: 1)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--counterfactual",
        default="auto",
        choices=["auto", "on", "off"],
        help="permute facts: auto = train and dev, half of test",
    )
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    configuration = BuildConfiguration(
        arguments.author, arguments.level, arguments.seed, counterfactual=arguments.counterfactual
    )
    sizes: dict[Split, int] = {"train": arguments.n_train, "dev": arguments.n_dev, "test": arguments.n_test}
    keep_configuration(
        arguments.out,
        {
            "author": arguments.author,
            "level": arguments.level,
            "seed": arguments.seed,
            "counterfactual": arguments.counterfactual,
        },
    )
    statistics = {
        split: dict(
            sorted(
                build_split(configuration, split, count, arguments.workers, arguments.out / f"{split}.jsonl").items()
            )
        )
        for split, count in sizes.items()
    }
    (arguments.out / "statistics.json").write_text(json.dumps(statistics, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {', '.join(f'{count} {split}' for split, count in sizes.items())} environments to {arguments.out}")
    return 0


if __name__ == "__main__":
    run_main(main)
