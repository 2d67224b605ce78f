"""Build verified environments: all five stages over many indices, in parallel, resumable.

In: only a seed (facts, worlds), or questions or domains (LLM author: `llm/author.py`, `llm/build.py`).
Out, in --out: `train.jsonl`, `dev.jsonl`, `test.jsonl`, the same splits as Parquet, a data set card, `statistics.json`
and figures.

Environment i is a function of (seed, split, i), and lines are written in order. So the bytes of the data depend only on
the seed and the generator (its hash is in `configuration.json`), not on --workers or on interruptions. A second call
resumes where the first one stopped. For an LLM author, this holds if its answers are in the cache. Exit code 3 means
that --budget was spent.

From level medium on, the environments are audited for shortcuts (`shortcuts.py`). Exit code 4 means that one was found.

Examples:
    python -m env_construction.build --author facts --level compact --n-train 300 --n-dev 60 --n-test 100 --seed 1 \
        --workers 2 --out outputs/demo/environments
    python -m env_construction.build --author llm --base-url http://localhost:8000/v1 --model Qwen/Qwen3-14B \
        --questions questions.txt --level medium --out outputs/mine/environments

Paper section 3.1 (automated environment construction).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.building.author import STRATEGIES, Rejected
from env_construction.building.author_options import (
    AUTHORS,
    add_llm_options,
    known_labels,
    llm_options,
    make_author,
    read_topics,
    refuse_llm_options,
)
from env_construction.building.data_card import write_data_card, write_parquet
from env_construction.building.environment_builder import BuildConfiguration
from env_construction.building.generator import generator_identity, git_commit
from env_construction.building.hold_out import check_rules
from env_construction.building.mixed_author import TURN, names_of
from env_construction.building.progress import SplitProgress
from env_construction.building.statistics_figures import draw_figures
from env_construction.building.workers import Chunk, ChunkBuilder, Job, Runner, open_runner, summarize
from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, keep_configuration, run_main
from env_construction.environment.schema import SCENARIOS, Environment, Split, read_environments
from env_construction.facts.fact_author import FactAuthor
from env_construction.facts.levels import LEVELS
from env_construction.measures.shortcuts import table
from env_construction.measures.surface_probe import describe_probe
from env_construction.sandbox.tool_sandbox import ToolSandbox
from env_construction.shortcuts import shortcut_report
from env_construction.worlds.stateful_author import StatefulAuthor
from env_construction.worlds.world_author import WorldAuthor

CHUNK = 128
BUDGET_SPENT = 3
"""Exit code: the LLM author's budget is spent."""
SHORTCUT_PAYS = 4
"""Exit code: all environments are written, but the shortcut audit failed."""
FEWEST_AUDITED, MOST_AUDITED = 40, 200


def build_split(
    configuration: BuildConfiguration, split: Split, count: int, folder: Path, here: ChunkBuilder, runner: Runner
) -> dict[str, Any]:
    """Write `count` environments to `<folder>/<split>.jsonl`, after those that exist. Returns the split's statistics.

    Raises BadInput if the file holds more than `count`, or if an environment cannot be built.
    """
    with SplitProgress(folder, split, count) as progress:
        if progress.done > count:
            raise BadInput(
                f"{progress.path}: has {progress.done} environments, but {count} were requested; choose another --out"
            )
        jobs: Iterator[Job] = (
            (configuration, split, list(range(start, min(start - start % CHUNK + CHUNK, count))))
            for start in _aligned(progress.done, count)
        )
        try:
            with tqdm(total=count, initial=progress.done, desc=split, unit="env", disable=None) as bar:
                for chunk in runner(jobs):
                    _take(chunk, here, configuration, split, progress)
                    bar.update(len(chunk.lines))
        except Rejected as rejected:
            held = f", with --hold-out {' '.join(configuration.hold_out)}" if configuration.hold_out else ""
            raise BadInput(
                f"{split}: {rejected.message}: too little to ask about for this many environments{held}; lower "
                f"--n-{split}{', or hold out something else' if held else ''}"
            ) from None
        return _statistics(progress)


def _check_hold_out(configuration: BuildConfiguration, sizes: dict[Split, int], here: ChunkBuilder) -> None:
    """Build one environment of each scenario and author for each split. Raises BadInput if the rules leave too little.

    Without this check, a hold-out that leaves nothing for the test split fails only after train is written.
    """
    turns = range(len(names_of(configuration.author)))
    first = [turn * TURN + scenario for turn in turns for scenario in range(len(SCENARIOS))]
    for split, count in sizes.items():
        try:
            here.build((configuration, split, [index for index in first if index < count]))
        except Rejected as rejected:
            raise BadInput(
                f"--hold-out {' '.join(configuration.hold_out)}: leaves too little for the split {split} "
                f"({rejected.message}); hold out something else, or use --n-{split} 0"
            ) from None


def _aligned(start: int, count: int) -> Iterator[int]:
    """First index of each chunk. A start within a chunk (the last call asked for fewer) realigns with the grid."""
    while start < count:
        yield start
        start += CHUNK - start % CHUNK


def _take(
    chunk: Chunk, here: ChunkBuilder, configuration: BuildConfiguration, split: Split, progress: SplitProgress
) -> None:
    """Write a chunk. An environment with a duplicate question is replaced by a later attempt at its index."""
    progress.tally.merge(chunk.tally)
    progress.rejections.update(chunk.rejections)
    progress.flags.update(chunk.flags)
    for name, counter in chunk.distinct.items():
        progress.distinct[name].merge(counter)
    for index, first_line, first_key in chunk.lines:
        line, key = first_line, first_key
        while not progress.seen.add(key):
            former = Environment.from_record(json.loads(line))
            progress.tally.add(former, sign=-1)
            progress.flags.subtract(f"{former.scenario}/{rule}" for rule in former.provenance.get("flags", ()))
            progress.rejections[f"{former.scenario}/duplicate"] += 1
            again = here.build((configuration, split, [index]), {index: former.provenance["attempt"] + 1})
            replacement = summarize(again)
            progress.tally.merge(replacement.tally)
            progress.rejections.update(replacement.rejections)
            progress.flags.update(replacement.flags)
            _, line, key = replacement.lines[0]
        progress.write(line, key)
    progress.commit()


def _statistics(progress: SplitProgress) -> dict[str, Any]:
    return {
        "environments": progress.done,
        "rejections by scenario and rule": dict(sorted(progress.rejections.items())),
        "flags by scenario and rule": {name: count for name, count in sorted(progress.flags.items()) if count},
        "distinct (estimated)": {name: counter.estimate() for name, counter in progress.distinct.items()},
        **progress.tally.to_record(),
    }


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = ScriptParser(__doc__, "python -m env_construction.build")
    parser.add_argument(
        "--author",
        default="facts",
        help=f"author of the environments: {', '.join(AUTHORS)}, or several that take turns, as facts+worlds (default: "
        "facts)",
    )
    parser.add_argument(
        "--stateful", action="store_true", help="worlds author only: tools that change a database, and rules for them"
    )
    parser.add_argument(
        "--constraints",
        action="store_true",
        help="state 1 to 3 constraints after each question: number of calls, order of tools, a forbidden tool, form of "
        "the answer, budget; eval.environments reports which are kept",
    )
    parser.add_argument("--level", default="compact", choices=list(LEVELS), help="complexity (default: compact)")
    parser.add_argument("--n-train", type=int, help="training environments (default: 300; all --questions)")
    parser.add_argument("--n-dev", type=int, help="dev environments (default: 60; none with --questions)")
    parser.add_argument("--n-test", type=int, help="test environments (default: 100; none with --questions)")
    parser.add_argument("--seed", type=int, default=1, help="the only source of randomness (default: 1)")
    parser.add_argument(
        "--test-seed", type=int, help="seed of the test split only, for a final unseen test (default: --seed)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, or concurrent tasks on Ray (default: 1)")
    parser.add_argument(
        "--ray-address", default=None, help="build on this Ray cluster, such as auto (default: local processes)"
    )
    parser.add_argument(
        "--counterfactual",
        default="auto",
        choices=["auto", "on", "off"],
        help="permute the facts: auto = in train, dev and half of test (default: auto)",
    )
    parser.add_argument(
        "--without", action="append", default=[], choices=STRATEGIES, help="turn off a scaling strategy (repeatable)"
    )
    parser.add_argument(
        "--hold-out",
        action="append",
        default=[],
        metavar="KIND:NAME",
        help="reserve this for test; test uses only this: domain:medicine, relation:poem.year, function:search, or a "
        "share as relation:40%% (repeatable)",
    )
    parser.add_argument(
        "--in-domain-test", action="store_true", help="with --hold-out: keep what is held out away from test too"
    )
    parser.add_argument(
        "--allow-shortcuts", action="store_true", help="report what the shortcut audit finds, and do not fail"
    )
    parser.add_argument("--no-parquet", action="store_true", help="write JSONL only")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    add_llm_options(parser)
    return parser.parse_args(argv)


def main() -> int:
    arguments = parse_arguments()
    if arguments.stateful and arguments.author not in (WorldAuthor.name, StatefulAuthor.name):
        raise BadInput(f"--stateful: the author {arguments.author} has no stateful worlds; use --author worlds")
    configuration = BuildConfiguration(
        author=StatefulAuthor.name if arguments.stateful else arguments.author,
        level=arguments.level,
        seed=arguments.seed,
        strategies=tuple(name for name in STRATEGIES if name not in arguments.without),
        counterfactual=arguments.counterfactual,
        hold_out=tuple(sorted(set(arguments.hold_out))),
        in_domain_test=arguments.in_domain_test,
        constraints=arguments.constraints,
    )
    if arguments.counterfactual != "auto" and FactAuthor.name not in names_of(configuration.author):
        raise BadInput(f"--counterfactual: the worlds of --author {arguments.author} are invented; remove the option")
    if arguments.in_domain_test and not arguments.hold_out:
        raise BadInput("--in-domain-test: nothing is held out; add --hold-out KIND:NAME")
    sizes = _sizes(arguments)
    if arguments.workers < 1 or min(sizes.values()) < 0:
        raise BadInput("--workers must be at least 1, --n-train, --n-dev and --n-test at least 0")
    if configuration.hold_out:
        check_rules(configuration.hold_out, known_labels(configuration.author))
    if configuration.author == "llm":
        if arguments.test_seed is not None:
            raise BadInput(
                "--test-seed: the LLM author's environments come from its questions, not from a seed; remove the option"
            )
        if arguments.workers != 1 or arguments.ray_address is not None:
            raise BadInput("--workers, --ray-address: the LLM author works in this process; use --concurrency")
        return _build_with_model(arguments, configuration, sizes)
    refuse_llm_options(arguments)
    make_author(configuration.author)  # raises BadInput for an unknown name before anything is written
    final = replace(configuration, seed=configuration.seed if arguments.test_seed is None else arguments.test_seed)
    settings = asdict(configuration) | ({"test_seed": final.seed} if final != configuration else {})
    settings |= _generator(configuration.author)
    keep_configuration(arguments.out, settings, noted=("commit",))
    here = ChunkBuilder(configuration.author)
    with here.sandbox, open_runner(arguments.workers, here, arguments.ray_address) as runner:
        if configuration.hold_out:
            _check_hold_out(configuration, sizes, here)
        statistics: dict[str, dict[str, Any]] = {
            split: build_split(final if split == "test" else configuration, split, count, arguments.out, here, runner)
            for split, count in sizes.items()
        }
    return _publish(arguments, settings, statistics)


def _generator(author: str) -> dict[str, Any]:
    return {"generator": generator_identity(author), "commit": git_commit()}


def _sizes(arguments: argparse.Namespace) -> dict[Split, int]:
    asked: dict[Split, int | None] = {"train": arguments.n_train, "dev": arguments.n_dev, "test": arguments.n_test}
    usual: dict[Split, int] = {"train": 300, "dev": 60, "test": 100}
    if arguments.author == "llm" and arguments.questions is not None:
        named = sum(count or 0 for count in asked.values())
        questions = len(read_topics(llm_options(arguments, arguments.out)))
        usual = {"train": max(0, questions - named), "dev": 0, "test": 0}
    return {split: usual[split] if count is None else count for split, count in asked.items()}


def _build_with_model(arguments: argparse.Namespace, configuration: BuildConfiguration, sizes: dict[Split, int]) -> int:
    # the client library takes a second to import; the fact author does not need it
    from env_construction.llm.build import LlmBuild, llm_configuration

    options = llm_options(arguments, arguments.out)
    run = LlmBuild(configuration, options, arguments.out)
    settings = asdict(configuration) | llm_configuration(options, sizes)
    settings |= _generator(configuration.author)
    # the model's replies decide, not this code: a build may go on after an update
    keep_configuration(arguments.out, settings, noted=("commit", "generator"))
    statistics = run.run(sizes)
    paid = _publish(arguments, settings, statistics)
    total = run.author.endpoint.ledger.total
    print(
        f"{total.requests} requests, {total.cached} answers from the cache, {total.retries} retries, "
        f"{total.prompt_tokens} + "
        f"{total.completion_tokens} tokens, ${total.cost_usd:.4f}; in {arguments.out / 'ledger.json'}"
    )
    for split, counted in statistics.items():
        if counted["yield"]["asked"]:
            print(f"{split}: {', '.join(f'{number} {what}' for what, number in counted['yield'].items())}")
    for kind, number in sorted(run.faults.items()):
        words = run.fault_words[kind]
        print(f"{number} environments without an answer from the endpoint ({words}); run again to retry them")
    if run.budget_message:
        print(f"stopped: {run.budget_message}. Raise --budget and run again to resume")
        return BUDGET_SPENT
    # nothing was built and nothing was rejected: the next step must not mistake this for a completed build
    nothing = run.faults and not any(counted["yield"]["asked"] for counted in statistics.values())
    return 1 if nothing else paid


def _publish(
    arguments: argparse.Namespace, configuration: dict[str, Any], statistics: dict[str, dict[str, Any]]
) -> int:
    """Write the statistics, figures, Parquet files and card of what was built, and audit it for shortcuts.

    Returns the exit code: SHORTCUT_PAYS if the audit fails.
    """
    path = arguments.out / "statistics.json"
    path.write_text(json.dumps(statistics, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw_figures(statistics, arguments.out / "figures")
    if not arguments.no_parquet:
        write_parquet(arguments.out, list(statistics))
    leaks, audited = _audit(arguments, statistics)
    write_data_card(arguments.out, configuration, statistics, not arguments.no_parquet, audited)
    counts = ", ".join(f"{counted['environments']} {split}" for split, counted in statistics.items())
    print(f"wrote {counts} environments to {arguments.out}")
    if leaks:
        print(f"the shortcut audit failed: {', '.join(leaks)}; the table is in {arguments.out / 'shortcuts.json'}")
    return SHORTCUT_PAYS if leaks and not arguments.allow_shortcuts else 0


def _audit(arguments: argparse.Namespace, statistics: dict[str, dict[str, Any]]) -> tuple[list[str], list[str]]:
    """(what leaks, lines for the card) for the first environments of the largest split, unless the level is exempt.

    Too few environments for an interval that means something are not audited.
    """
    split = max(statistics, key=lambda name: statistics[name]["environments"])
    if not LEVELS[arguments.level].audited or statistics[split]["environments"] < FEWEST_AUDITED:
        return [], []
    environments = list(islice(read_environments(arguments.out / f"{split}.jsonl"), MOST_AUDITED))
    with ToolSandbox() as sandbox:
        rows, probed, record = shortcut_report(environments, sandbox)
    path = arguments.out / "shortcuts.json"
    path.write_text(json.dumps({"split": split} | record, indent=1) + "\n", encoding="utf-8")
    shown = ["```text", *table(rows).splitlines(), describe_probe(probed), "```"]
    head = f"Policies that never read a question, on the first {len(environments)} environments of {split}."
    return record["leaks"], ["## Shortcuts", "", head, "", *shown, ""]


def command() -> None:
    """The console script."""
    run_main(main)


if __name__ == "__main__":
    command()
