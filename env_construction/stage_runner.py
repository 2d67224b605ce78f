"""Run one stage over a file of drafts: JSONL in, JSONL out, resumable, nothing skipped in silence.

Each line of a stage's file is a draft with everything that earlier stages added. A draft that a stage rejects is
written with `rejected: {stage, rule, message}` instead of going on; later stages carry it along. The five stage scripts
share this runner; `build.py` runs the same stage functions without files in between.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tqdm import tqdm

from env_construction.author import STRATEGIES, Author, Draft, Rejected
from env_construction.fact_author import FactAuthor
from env_construction.jsonl import BadInput, JsonlWriter, read_jsonl

Stage = Callable[[Author, Draft], Draft]


def make_author(name: str) -> Author:
    """The author of that name. Raises BadInput with the valid names."""
    if name != FactAuthor.name:
        raise BadInput(f"author {name!r} is unknown; valid: {FactAuthor.name}")
    return FactAuthor()


def stage_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that stages 2 to 5 have in common."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="source", type=Path, required=True, help="JSONL of the stage before")
    parser.add_argument(
        "--out", type=Path, required=True, help="JSONL to append to; drafts that are there are not redone"
    )
    return parser


def without_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--without", action="append", default=[], choices=STRATEGIES, help="switch a scaling strategy off (repeatable)"
    )


def read_drafts(path: Path) -> Iterable[tuple[dict[str, Any], Draft | None]]:
    """Yield (record, draft); the draft is None where an earlier stage rejected it. Raises BadInput with file and line."""
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


def run_stage(name: str, stage: Stage, drafts: Iterable[tuple[dict[str, Any], Draft | None]], out: Path) -> int:
    """Apply `stage` to every draft that is not in `out` yet. Prints what was written; returns the exit code 0."""
    counts: Counter[str] = Counter()
    authors: dict[str, Author] = {}
    with JsonlWriter(out) as writer:
        for record, draft in tqdm(drafts, desc=name, unit="draft", disable=None):
            if record["id"] in writer.done:
                continue
            if draft is None:
                writer.write(record)
                counts["rejected earlier"] += 1
                continue
            if draft.author not in authors:
                authors[draft.author] = make_author(draft.author)
            try:
                writer.write(stage(authors[draft.author], draft).model_dump())
                counts["done"] += 1
            except Rejected as rejected:
                reason = {"stage": name, "rule": rejected.rule, "message": rejected.message}
                writer.write({**draft.model_dump(), "rejected": reason})
                counts[f"rejected: {rejected.rule}"] += 1
    print(
        f"{name}: wrote {out}: {', '.join(f'{number} {what}' for what, number in sorted(counts.items())) or 'nothing new'}"
    )
    return 0
