"""Repair the trainer's saved states (`--ckpt.path`), so that a run killed at any moment can resume.

OpenRLHF saves `_actor/global_stepN` (and `_critic/...` for PPO) in this order: it deletes the oldest state beyond
`--ckpt.max_num`, every rank writes its files, rank 0 writes `latest`, and finally `metric.json` into the new folder.
The state is complete only then, because other ranks may still be writing when rank 0 writes `latest`.

OpenRLHF reads only `latest` at a start. A kill in between can therefore leave a run that cannot start, and a
half-deleted state that looks complete. `recover` repairs this before every start.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

TAG = re.compile(r"global_step(\d+)")
WHOLE = "metric.json"  # the last file that OpenRLHF writes into a state (utils/deepspeed/deepspeed.py, save_ckpt)
ASIDE = "incomplete_state"


def saved_step(state: Path) -> int:
    """The step that the trainer would resume from, 0 if there is no state."""
    latest = state / "_actor" / "latest"
    match = TAG.fullmatch(latest.read_text(encoding="utf-8").strip()) if latest.is_file() else None
    return int(match[1]) if match else 0


def recover(state: Path, entities: Sequence[str] = ("_actor",)) -> int:
    """Keep only the newest state that is complete for all `entities`, and point `latest` to it. Return its step or 0.

    All other states move to the sibling folder `incomplete_state`, which replaces its previous contents. The function
    may be interrupted and repeated.
    """
    if not state.exists():
        return 0
    whole = [{tag.name for tag in (state / name).glob("global_step*") if (tag / WHOLE).is_file()} for name in entities]
    steps = [int(match[1]) for tag in set.intersection(*whole) if (match := TAG.fullmatch(tag))]
    keep = f"global_step{max(steps)}" if steps else ""
    found = [folder for entity in state.iterdir() if entity.is_dir() for folder in entity.iterdir() if folder.is_dir()]
    remains = [folder for folder in found if not (keep and folder.name == keep and folder.parent.name in entities)]
    aside = state.with_name(ASIDE)
    if remains:
        shutil.rmtree(aside, ignore_errors=True)
    # Write `latest` before other states move, so that it never names a state that has moved.
    for name in entities if keep else ():
        _write_whole(state / name / "latest", keep)
    for folder in remains:
        (aside / folder.parent.name).mkdir(parents=True, exist_ok=True)
        folder.rename(aside / folder.parent.name / folder.name)
    if not keep:
        shutil.rmtree(state)
    return max(steps, default=0)


def _write_whole(path: Path, text: str) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
