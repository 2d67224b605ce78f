"""Parse OpenRLHF's output: the metrics of a step, and the error lines.

OpenRLHF logs one line per step, `Global step N: {metrics}`, in every mode and on every machine. TensorBoard gets the
same dictionary, but the line appears immediately (version 0.11.2, trainer/ppo_trainer.py).
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import JsonlWriter, read_jsonl, write_jsonl
from reward.logged_settings import readable

STEP = re.compile(r"Global step (\d+): \{(.*)\}")
METRIC = re.compile(r"'([^']+)': (-?(?:nan|inf|[0-9][0-9.e+-]*))(?=[,}]|$)")
NOISE = re.compile(r"it/s|s/it|\d+%\||^\s*$|WARNING|Warning:")
COLOR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def read_status(line: str) -> dict[str, Any] | None:
    """The metrics of one step from a line of the log; None for other lines.

    Adds `reward_seconds` and `reward_share`, and converts the reward's settings to names. `nan` and `inf` become None,
    because JSON cannot represent them. `reward_seconds` is the time spent running calls, summed over all responses.
    Calls run in parallel with generation, so this is an upper bound of the time that the step waited for them.
    """
    match = STEP.search(line)
    if match is None:
        return None
    row: dict[str, Any] = {"step": int(match[1])}
    for key, text in METRIC.findall(match[2]):
        value = float(text)
        row[key] = value if math.isfinite(value) else None
    if row.get("sandbox_ms") is not None and row.get("rollout/num_samples"):
        row["reward_seconds"] = row["sandbox_ms"] * row["rollout/num_samples"] / 1000
        if row.get("timing/step_total"):
            row["reward_share"] = row["reward_seconds"] / row["timing/step_total"]
    return row | readable(row)


def drop_steps_after(rows: Path, step: int) -> None:
    """Keep the rows of the log up to the saved state; the later steps will be repeated."""
    if not rows.exists():
        return
    JsonlWriter(rows, key="step").close()  # removes an incomplete last line
    write_jsonl(rows, [row for _, row in read_jsonl(rows) if row.get("step", 0) <= step])


def error_lines(log: str) -> list[str]:
    """The log's lines without colors, progress bars and warnings."""
    lines = [COLOR.sub("", part) for line in log.splitlines() for part in line.split("\r")]
    return [line for line in lines if not NOISE.search(line)]
