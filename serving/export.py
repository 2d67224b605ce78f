"""Export environments for other trainers: data with its reward, or an environment package.

In:  --data FILE   environments, JSONL or Parquet
Out: --out DIR, a new folder with a README.md on how to use and publish it

| --to | content | trainer |
| --- | --- | --- |
| `trl` | prompts with labels; reward: `serving/trl_reward.py` | TRL |
| `verl` | prompts with labels; reward: `serving/verl_reward.py` | verl |
| `sft` | conversations of the oracle, or --trajectories filtered by score | --reader: TRL, Axolotl, LLaMA-Factory |
| `openenv` | an environment server as a package | TRL, Unsloth, SkyRL, ... through OpenEnv |
| `verifiers` | a taskset as a package | prime-rl, ... through verifiers |

`trl` and `verl` write the initial state of each environment. With --trajectories they write every prefix, as in the
paper. `sft` rows have the columns `messages` and `tools`.

Examples:
    python -m serving.export --to trl --data env.jsonl --out exported
    python -m serving.export --to sft --data env.jsonl --trajectories trajectories.jsonl --min-solve-f1 1 --out exported
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main
from env_construction.environment.matching import MATCHES
from env_construction.environment.schema import Environment
from reward.rewards import REWARDS
from reward.score import read_gold
from serving.exports.cards import write_card
from serving.exports.labels import LABEL_REWARDS, TURN, LabelSettings
from serving.exports.packages import write_package
from serving.exports.tables import (
    FORMATS,
    READERS,
    features_of,
    sft_row,
    sft_row_for,
    trl_rows,
    verl_rows,
    write_tables,
)
from train.collect_trajectories import read_trajectories
from train.policies.interface import OraclePolicy
from train.policies.rollout import Episode, play
from train.rl_prompts import PromptCounts, training_states

PACKAGES = ("openenv", "verifiers")
EPISODE = "turns"


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.trajectories and arguments.to in PACKAGES:
        raise BadInput(f"--trajectories: --to {arguments.to} exports environments, not conversations; omit the option")
    if arguments.reader != "trl" and arguments.to != "sft":
        raise BadInput(f"--reader {arguments.reader}: only valid with --to sft")
    if (arguments.min_solve_f1 or arguments.answer_correct) and arguments.to != "sft":
        raise BadInput("--min-solve-f1 and --answer-correct: only valid with --to sft")
    if arguments.out.exists():
        raise BadInput(f"--out {arguments.out}: expected a new folder, but it exists; delete it or choose another one")
    environments = read_gold(arguments.data, "strict")
    reward = arguments.reward or (EPISODE if arguments.to in PACKAGES else TURN)
    settings = LabelSettings(arguments.variant, arguments.match, reward)
    partial = arguments.out.with_name(arguments.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if arguments.to in PACKAGES:
        counts = write_package(arguments.to, partial, environments, settings)
    else:
        rows = _rows(arguments, environments, settings)
        counts = write_tables(partial, rows, features_of(arguments.to, arguments.reader))
        if not counts:
            raise BadInput(
                "no rows to export: no environment has a gold plan, or no trajectory passes the filter; "
                "lower --min-solve-f1, or omit --answer-correct"
            )
        write_card(partial, arguments.to, counts, settings, arguments.reader)
    partial.rename(arguments.out)
    print(f"wrote {arguments.out}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))
    return 0


def _rows(
    arguments: argparse.Namespace, environments: dict[str, Environment], settings: LabelSettings
) -> Iterator[dict[str, Any]]:
    if arguments.to == "sft":
        rows = _recorded(arguments, environments) if arguments.trajectories else _oracle(environments, settings.match)
        left_out = 0
        for row in rows:
            if row["solve_f1"] >= arguments.min_solve_f1 and (row["answer_correct"] or not arguments.answer_correct):
                written = sft_row_for(arguments.reader, row)
                left_out += written is None
                if written is not None:
                    yield written
        if left_out:
            print(
                f"skipped {left_out} conversations: LLaMA-Factory would parse the <tool_call> in their text as a call"
            )
        return
    states = list(environments.values())
    if arguments.trajectories:
        states = [state for state, _ in training_states(_known(arguments, environments), PromptCounts())]
    yield from (trl_rows if arguments.to == "trl" else verl_rows)(states, settings)


def _known(arguments: argparse.Namespace, environments: dict[str, Environment]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of --trajectories. Raises BadInput for a row of an environment that is not in --data."""
    for where, row in read_trajectories(arguments.trajectories):
        if str(row.get("id")) not in environments:
            raise BadInput(
                f"{where}: environment {row.get('id')!r} is not in --data {arguments.data}; "
                "pass the environments that the trajectories were collected in"
            )
        yield where, row


def _recorded(arguments: argparse.Namespace, environments: dict[str, Environment]) -> Iterator[dict[str, Any]]:
    for where, row in _known(arguments, environments):
        if not isinstance(row.get("solve_f1"), float) or not isinstance(row.get("answer_correct"), bool):
            raise BadInput(f"{where}: expected a row of train.collect_trajectories with solve_f1 and answer_correct")
        start = Environment.from_record(row["environment"], where)
        scores = {"solve_f1": row["solve_f1"], "answer_correct": row["answer_correct"]}
        yield sft_row(start, row["messages"], "trajectory", **scores)


def _oracle(environments: dict[str, Environment], match: str) -> Iterator[dict[str, Any]]:
    """Conversations that follow the gold plan, with real tool outputs. Skips environments without a plan."""
    planned = [environment for environment in environments.values() if environment.gold_plan]
    played: dict[str, Episode] = {}
    play(OraclePolicy(), planned, match=match, on_episode=lambda episode: played.update({episode.id: episode}))
    for environment in planned:
        episode = played[environment.id]
        score = episode.score
        yield sft_row(
            environment,
            episode.state.messages,
            "oracle",
            solve_f1=score.solve_f1,
            answer_correct=score.answer_correct,
        )


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__, "python -m serving.export")
    parser.add_argument("--to", choices=(*FORMATS, *PACKAGES), required=True)
    parser.add_argument("--data", type=Path, required=True, help="environments, JSONL or Parquet")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the export")
    parser.add_argument("--trajectories", type=Path, help="trajectories.jsonl of train.collect_trajectories")
    parser.add_argument("--variant", choices=list(REWARDS), default="solve_f1", help="row of the reward table")
    parser.add_argument("--match", choices=list(MATCHES), default="published", help="how to match outputs")
    parser.add_argument(
        "--reward",
        choices=LABEL_REWARDS,
        help=f"reward of one turn, or of complete episodes (default: {TURN}; for openenv and verifiers: {EPISODE})",
    )
    parser.add_argument("--min-solve-f1", type=float, default=0.0, help="sft: minimum Solve-F1 of a conversation")
    parser.add_argument(
        "--answer-correct", action="store_true", help="sft: keep only conversations with a correct answer"
    )
    parser.add_argument(
        "--reader", choices=READERS, default="trl", help="sft: trainer that will read it (trl also fits Axolotl)"
    )
    return parser


def command() -> None:
    """The console script."""
    run_main(main)


if __name__ == "__main__":
    command()
