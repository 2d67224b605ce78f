"""Episodes lost to infrastructure faults: one wording for evaluation, collection, comparison and analysis.

A fault is never caused by the policy: a server is gone, a sandbox died, or a turn was not recorded. A lost episode is
not scored. It is listed in `faults.jsonl`, beside the rows of the completed episodes, until a later run plays it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, read_jsonl

SHOWN_KINDS = 3
KIND_LENGTH = 80


def fault_kind(text: str) -> str:
    """The first line of a fault's text, with its quoted names and numbers masked."""
    kind = re.sub(r"(?<!\w)'[^']*'(?!\w)|\"[^\"]*\"", "...", text.strip().partition("\n")[0])
    kind = re.sub(r"\b\d[\d.,]*\b", "N", kind)
    return (kind if len(kind) <= KIND_LENGTH else kind[: KIND_LENGTH - 3] + "...") or "unknown"


def faults_text(faults: Iterable[str], total: int, unit: str = "episodes") -> str:
    """`3 of 240 episodes were lost to faults and are not scored (2 x server gone, 1 x ...)`; empty without faults.

    `faults` has one text per lost episode. `total` includes the lost episodes.
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
    """The sentence as the last line of a run with its `faults.jsonl` in `folder`; empty without faults."""
    return lost_line(faults_text(faults, total), folder)


def lost_line(text: str, folder: Path | str) -> str:
    """A sentence of faults_text with the path of the faults file; empty for an empty sentence."""
    return f"{text}; see {Path(folder) / 'faults.jsonl'}; run the same command again to retry them\n" if text else ""


def require_played(faults: Counter[str], episodes: int, held: int, out: Path | str) -> None:
    """Raises BadInput if each of a call's `episodes` ended in a fault (`faults` counts them by their text).

    The few that a former call left over may fail again: no error, as long as more of them are `held` by the folder.
    """
    if faults and faults.total() == episodes > held:
        words, count = faults.most_common(1)[0]
        raise BadInput(
            f"{out}: no episode of {episodes} could be played; {count} times: {' '.join(words.split())} "
            "(see faults.jsonl; the same command plays them again)"
        )


def fault_rows(folder: Path | str, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the folder's `faults.jsonl` whose episodes were not completed later. `rows` are the folder's results."""
    file = Path(folder) / "faults.jsonl"
    if not file.is_file():
        return []
    played = {(row["id"], row.get("trial", 0)) for row in rows if row.get("outcome") != "fault"}
    lost = {(row["id"], row.get("trial", 0)): row for _, row in read_jsonl(file, required=("id",))}
    return [row | {"outcome": "fault"} for key, row in lost.items() if key not in played]


def rows_faults_text(rows: Iterable[Mapping[str, Any]], unit: str = "episodes") -> str:
    """faults_text of result rows, which include rows with the outcome `fault`."""
    rows = list(rows)
    lost = [str(row.get("fault") or "") for row in rows if row.get("outcome") == "fault"]
    return faults_text(lost, len(rows), unit)


def one_sided_faults_text(
    a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]], names: tuple[str, str] = ("A", "B")
) -> str:
    """Warn if one side of a comparison lost episodes to faults that the other side completed; empty if not."""
    lost, played = [], []
    for rows in map(list, (a, b)):
        done = {(row["id"], row.get("trial", 0)) for row in rows if row.get("outcome") != "fault"}
        lost.append({(row["id"], row.get("trial", 0)) for row in rows if row.get("outcome") == "fault"} - done)
        played.append(done)
    only_a, only_b = len(lost[0] & played[1]), len(lost[1] & played[0])
    if not only_a and not only_b:
        return ""
    return (
        f"Warning: {names[0]} lost {only_a} episodes to faults that {names[1]} completed, and {names[1]} lost {only_b} "
        f"that {names[0]} completed. The comparison leaves them out. "
        "If they are harder or easier than the others, the difference is biased"
    )
