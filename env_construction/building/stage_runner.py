"""Run one stage over a file of drafts: JSONL in, JSONL out, resumable, nothing skipped in silence.

Each line of a stage's file is a draft with everything that earlier stages added. A draft that a stage rejects is
written with `rejected: {stage, rule, message}` instead of going on; later stages carry it along. The five stage scripts
share this runner; `build.py` runs the same stage functions without files in between.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tqdm import tqdm

from env_construction.building.author import STRATEGIES, Author, AuthorFault, BudgetSpent, Draft, Rejected
from env_construction.building.author_options import add_llm_options, llm_options, make_author
from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, JsonlWriter, read_jsonl

Stage = Callable[[Author, Draft], Draft]
MakeAuthor = Callable[[str], Author]


def stage_parser(docstring: str | None, command: str) -> argparse.ArgumentParser:
    """The options that stages 2 to 5 have in common."""
    parser = ScriptParser(docstring, command)
    parser.add_argument("--in", dest="source", type=Path, required=True, help="JSONL of the stage before")
    parser.add_argument(
        "--out", type=Path, required=True, help="JSONL to append to; drafts that are there are not redone"
    )
    add_llm_options(parser)
    return parser


def author_maker(arguments: argparse.Namespace) -> MakeAuthor:
    """Makes each author once, by name, with the options of the command line."""
    options = llm_options(arguments, arguments.out.parent) if arguments.base_url or arguments.model else None
    return cache(lambda name: make_author(name, options))


def without_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--without", action="append", default=[], choices=STRATEGIES, help="switch a scaling strategy off (repeatable)"
    )


def read_drafts(path: Path) -> Iterable[tuple[dict[str, Any], Draft | None]]:
    """Yield (record, draft); the draft is None where an earlier stage rejected it. Raises BadInput with file and
    line.
    """
    for number, record in read_jsonl(path, required=("id",)):
        if "rejected" in record:
            yield record, None
            continue
        try:
            yield record, Draft.model_validate(record)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise BadInput(f"{path}:{number}: key {place!r}: {first['msg']}") from None


def run_stage(
    name: str, stage: Stage, drafts: Iterable[tuple[dict[str, Any], Draft | None]], out: Path, authors: MakeAuthor
) -> int:
    """Apply `stage` to every draft that is not in `out` yet. Prints what was written; returns the exit code 0.

    Drafts for which the author did not answer are not written, so that the next run tries again; a spent budget ends
    the run.
    """
    counts: Counter[str] = Counter()
    with JsonlWriter(out) as writer:
        for record, draft in tqdm(drafts, desc=name, unit="draft", disable=None):
            if record["id"] in writer.done:
                continue
            if draft is None:
                writer.write(record)
                counts["rejected earlier"] += 1
                continue
            author = authors(draft.author)
            try:
                writer.write(stage(author, draft).model_dump())
                counts["done"] += 1
            except AuthorFault as fault:
                counts[f"without an answer ({str(fault).split(':')[0]}), to be tried again"] += 1
            except BudgetSpent as spent:
                print(f"{name}: stopped: {spent}; raise --budget and run again to go on")
                break
            except Rejected as rejected:
                reason = {"stage": name, "rule": rejected.rule, "message": rejected.message}
                writer.write({**draft.model_dump(), "rejected": reason})
                counts[f"rejected: {rejected.rule}"] += 1
    print(
        f"{name}: wrote {out}: {', '.join(f'{number} {what}' for what, number in sorted(counts.items())) or 'nothing new'}"
    )
    return 0
