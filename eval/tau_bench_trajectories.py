"""Convert trajectories that tau-bench recorded into replay lines, to check that both scorers agree.

Input: a JSON file from tau-bench's `run.py` (a list of `task_id`, `trial`, `reward`, `traj`), such as those under
`historical_trajectories/` of the repository sierra-research/tau-bench.
Output: replay lines (`id`, `trial`, `turns`, `user_turns`, and tau-bench's own `reward`), which serve as the policy and
as the simulated user. With --results: a comparison of the rewards (exit code 1 if any differ).

Example:
    python -m eval.tau_bench_trajectories gpt-4o-airline.json --domain airline --out recorded.jsonl
    python -m eval.tau_bench --policy replay:recorded.jsonl --user-model replay:recorded.jsonl --trials 4 \\
        --domains airline --out outputs/gpt-4o
    python -m eval.tau_bench_trajectories gpt-4o-airline.json --domain airline --out recorded.jsonl \\
        --results outputs/gpt-4o

Result: the 200 airline trajectories of gpt-4o get the same 200 rewards, and pass^1 to pass^4 of 42.0, 27.3, 22.0 and
20.0, as published.

Source: tau-bench (arXiv 2406.12045); paper/README.md, "Evaluation".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, read_text, run_main, write_jsonl
from env_construction.replies.message_content import read_content
from env_construction.replies.server_replies import ReplyMessage
from eval.suites.results import read_rows
from eval.tau.domains import DOMAINS
from train.policies.server_policy import raw_text


def replay_line(record: Mapping[str, Any], domain: str, where: str) -> dict[str, Any]:
    """The replay line of one recorded episode. Raises BadInput that names `where`."""
    turns: list[str] = []
    user_turns: list[str] = []
    try:
        for message in record["traj"]:
            if message["role"] == "user":
                user_turns.append(read_content(message.get("content")).text)
            elif message["role"] == "assistant":
                said = ReplyMessage.model_validate(message)
                turns.append(raw_text(said.model_copy(update={"tool_calls": said.tool_calls[:1]})))
        case, trial, reward = f"{domain}/{int(record['task_id'])}", int(record["trial"]), float(record["reward"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found = " ".join(str(error).split())[:200]
        raise BadInput(f"{where}: expected task_id, trial, reward and traj ({type(error).__name__}: {found})") from None
    return {"id": case, "trial": trial, "turns": turns, "user_turns": user_turns, "reward": reward}


def read_trajectories(path: Path, domain: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The replay lines of a file, and a reason for each item left out. Raises BadInput if no item can be read."""
    try:
        records = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: expected a JSON list of trajectories ({error})") from None
    if not isinstance(records, list):
        raise BadInput(f"{path}: expected a JSON list of trajectories, got {type(records).__name__}")
    lines: list[dict[str, Any]] = []
    left_out: list[str] = []
    for place, record in enumerate(records):
        try:
            lines.append(replay_line(record, domain, f"{path}: item {place}"))
        except BadInput as error:
            left_out.append(str(error))
    if not lines:
        raise BadInput(left_out[0] if left_out else f"{path}: expected a JSON list of trajectories, got an empty one")
    return lines, left_out


def differences(lines: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """The number of shared episodes, and one line for each whose reward differs."""
    theirs = {(line["id"], line["trial"]): line["reward"] for line in lines}
    both = [row for row in rows if (row["id"], row["trial"]) in theirs]
    differing = [
        f"{row['id']}, trial {row['trial']}: tau-bench gave {theirs[row['id'], row['trial']]:g}, "
        f"this suite {row['reward']:g} ({row['failure']})"
        for row in both
        if abs(theirs[row["id"], row["trial"]] - row["reward"]) > 1e-6
    ]
    return len(both), differing


def main() -> int:
    parser = ScriptParser(__doc__, "python -m eval.tau_bench_trajectories")
    parser.add_argument("trajectories", help="JSON file written by tau-bench")
    parser.add_argument("--domain", choices=DOMAINS, required=True)
    parser.add_argument("--out", required=True, help="JSONL file for the replay lines")
    parser.add_argument("--results", default=None, help="result folder whose rewards are compared")
    arguments = parser.parse_args()
    lines, left_out = read_trajectories(Path(arguments.trajectories), arguments.domain)
    count = write_jsonl(arguments.out, lines)
    for reason in left_out:
        print(f"left out: {reason}")
    print(f"wrote {count} episodes to {arguments.out}, {len(left_out)} left out")
    if arguments.results is None:
        return 0
    compared, differing = differences(lines, read_rows(arguments.results))
    for line in differing:
        print(line)
    print(f"{compared - len(differing)} of {compared} episodes get the same reward as in tau-bench")
    return 1 if differing or not compared else 0


if __name__ == "__main__":
    run_main(main)
