"""What a run lost to faults of the infrastructure, in the same words everywhere: evaluation, collection, comparison, analysis.

A fault is a server that is gone, a sandbox that died, a turn that is not recorded: never the policy's doing. What it broke is not
scored. It lies in `faults.jsonl`, beside the rows of what was played, until a later call plays it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import read_jsonl

SHOWN_KINDS = 3
KIND_LENGTH = 80


def fault_kind(text: str) -> str:
    """A fault's text without what differs from case to case: quoted names and numbers."""
    kind = re.sub(r"(?<!\w)'[^']*'(?!\w)|\"[^\"]*\"", "...", text.strip().partition("\n")[0])
    kind = re.sub(r"\b\d[\d.,]*\b", "N", kind)
    return (kind if len(kind) <= KIND_LENGTH else kind[: KIND_LENGTH - 3] + "...") or "unknown"


def faults_text(faults: Iterable[str], total: int, unit: str = "episodes") -> str:
    """`3 of 240 episodes were lost to faults and are not scored (2 x server gone, 1 x ...)`; empty without a fault.

    `faults` are their texts, one for each lost episode; `total` counts the lost ones too.
    """
    kinds = Counter(map(fault_kind, faults))
    if not kinds:
        return ""
    named = [f"{count} x {kind}" for kind, count in kinds.most_common(SHOWN_KINDS)]
    if len(kinds) > SHOWN_KINDS:
        named.append(f"{kinds.total() - sum(count for _, count in kinds.most_common(SHOWN_KINDS))} x other")
    verb = "was" if kinds.total() == 1 else "were"
    are = "is" if kinds.total() == 1 else "are"
    return f"{kinds.total()} of {total} {unit} {verb} lost to faults and {are} not scored ({', '.join(named)})"


def faults_line(faults: Iterable[str], total: int, folder: Path | str) -> str:
    """The sentence as the last line of a run whose `faults.jsonl` lies in `folder`; empty without a fault."""
    return lost_line(faults_text(faults, total), folder)


def lost_line(text: str, folder: Path | str) -> str:
    """A sentence of faults_text with the file that has the faults; empty for none."""
    return f"{text}; see {Path(folder) / 'faults.jsonl'}, the same command plays them again\n" if text else ""


def fault_rows(folder: Path | str, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a result folder with these rows has lost to faults: the rows of its `faults.jsonl` that were not played since."""
    file = Path(folder) / "faults.jsonl"
    if not file.is_file():
        return []
    played = {(row["id"], row.get("trial", 0)) for row in rows if row.get("outcome") != "fault"}
    lost = {(row["id"], row.get("trial", 0)): row for _, row in read_jsonl(file, required=("id",))}
    return [row | {"outcome": "fault"} for key, row in lost.items() if key not in played]


def rows_faults_text(rows: Iterable[Mapping[str, Any]], unit: str = "episodes") -> str:
    """faults_text of rows, those with the outcome `fault` among them."""
    rows = list(rows)
    lost = [str(row.get("fault") or "") for row in rows if row.get("outcome") == "fault"]
    return faults_text(lost, len(rows), unit)


def one_sided_faults_text(
    a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]], names: tuple[str, str] = ("A", "B")
) -> str:
    """A warning that one side of a comparison lost episodes to faults that the other side has; empty if none did."""
    lost, played = [], []
    for rows in map(list, (a, b)):
        done = {(row["id"], row.get("trial", 0)) for row in rows if row.get("outcome") != "fault"}
        lost.append({(row["id"], row.get("trial", 0)) for row in rows if row.get("outcome") == "fault"} - done)
        played.append(done)
    only_a, only_b = len(lost[0] & played[1]), len(lost[1] & played[0])
    if not only_a and not only_b:
        return ""
    return (
        f"Warning: {names[0]} lost {only_a} episodes to faults that {names[1]} has, and {names[1]} lost {only_b} that {names[0]} has. "
        "The comparison leaves them out; if they are harder or easier than the rest, the difference is biased"
    )
