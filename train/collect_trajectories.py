"""Play environments with a policy and record every prefix, from which train.rl_prompts builds the RL prompts.

Inputs: environments (JSONL or Parquet), a policy.
Outputs, in --out:
- `trajectories.jsonl`: one row per episode. A row has the environment in its initial state, the complete conversation,
  one prefix per turn (number of messages, what was unsolved, solve rate), the raw turns with their scores, and the
  episode's scores. `prefix_environments` rebuilds the Environment states of the prefixes.
- `faults.jsonl`: the episodes that an infrastructure fault ended. The next run plays them again.
- `configuration.json`.

Resumable: the next run skips episodes that have a row. --limit and --trials may be raised later. The script refuses a
folder that was written with a different policy. If no episode could be played, it prints the fault and exits
with code 2.

Example:
    python -m train.collect_trajectories --environments outputs/cpu/environments/train.jsonl \\
        --policy hf:outputs/cpu/start --out outputs/cpu/grpo/epoch-1/trajectories --temperature 1.0 --max-turns 20 \\
        --seed 1 --max-prompt-tokens 3072

Source: paper section "Training" (paper/README.md): temperature 1.0, at most 20 turns, repeated at the start of each
epoch.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser, at_least_one
from env_construction.environment.jsonl import (
    BadInput,
    JsonlWriter,
    file_sha256,
    keep_configuration,
    read_jsonl,
    run_main,
)
from env_construction.environment.matching import MATCHES
from env_construction.environment.schema import Environment, read_environments
from train.policies.identity import policy_identity
from train.policies.rollout import Episode, cut_off_text, play
from train.policies.specs import IN_FLIGHT, SERVER_REQUESTS, load_policy
from train.stages.faults import faults_line, require_played
from train.trainer.devices import DEVICES


def trajectory_row(episode: Episode) -> dict[str, Any]:
    """The JSONL row of an episode."""
    score = episode.score
    return {
        "id": episode.id,
        "trial": episode.trial,
        "seed": episode.seed,
        "outcome": episode.outcome,
        "solve_p": score.solve_p,
        "solve_r": score.solve_r,
        "solve_f1": score.solve_f1,
        "answer_correct": score.answer_correct,
        "prompt_tokens": [generation.prompt_tokens for generation in episode.generations],
        "completion_tokens": [generation.tokens for generation in episode.generations],
        "turns": [generation.text for generation in episode.generations],
        "rewards": [turn.reward for turn in episode.turns],
        "kinds": [turn.kind for turn in episode.turns],
        "prefixes": [
            {
                "messages": len(state.messages),
                "unsolved_set": state.unsolved_set,
                "solve_rate": state.solve_rate,
                **({} if state.state is None else {"state": state.state.model_dump(include={"changes", "credited"})}),
            }
            for state in _states(episode)
        ],
        "messages": episode.state.messages,
        "environment": episode.start.to_record(),
    }


def _states(episode: Episode) -> list[Environment]:
    """The state before each turn, and the last state if a limit of turns or tokens ended the episode before a turn."""
    unasked = [episode.state] if episode.outcome in ("max_turns", "too_long") else []
    return [*episode.prefixes, *unasked]


def prefix_environments(row: dict[str, Any], where: str = "row") -> list[Environment]:
    """The Environment states of a row's prefixes, in order. Raises BadInput with `where` for another row format."""
    try:
        start = Environment.from_record(row["environment"], where)
        return [
            start.model_copy(
                update={
                    "messages": row["messages"][: prefix["messages"]],
                    "unsolved_set": prefix["unsolved_set"],
                    "solve_rate": prefix["solve_rate"],
                    "state": start.state and start.state.model_copy(update=prefix["state"]),
                    "solved_set": {
                        tool: solved
                        for tool, answers in start.unsolved_set.items()
                        if (
                            solved := list(
                                (Counter(answers) - Counter(prefix["unsolved_set"].get(tool, ()))).elements()
                            )
                        )
                    },
                }
            )
            for prefix in row["prefixes"]
        ]
    except (KeyError, TypeError) as error:
        raise BadInput(f"{where}: expected a row of train.collect_trajectories ({error!r})") from None


def read_trajectories(path: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `(file:line, row)` of a trajectories file."""
    for number, row in read_jsonl(path, required=("id", "prefixes", "messages", "environment")):
        yield f"{path}:{number}", row


def load_environments(path: Path | str, limit: int | None = None) -> list[Environment]:
    """The (first `limit`) environments of a file. Raises BadInput for a repeated id, because ids key the results."""
    environments: list[Environment] = []
    seen: set[str] = set()
    for environment in read_environments(path):
        if environment.id in seen:
            raise BadInput(f"{path}: id {environment.id!r} occurs twice; ids must be unique")
        seen.add(environment.id)
        environments.append(environment)
        if limit is not None and len(environments) >= limit:
            break
    return environments


def collect(arguments: argparse.Namespace) -> int:
    """Play the episodes that have no row yet. Return the exit code."""
    environments = load_environments(arguments.environments, arguments.limit)
    keep_configuration(
        arguments.out,
        {
            "environments_sha256": file_sha256(arguments.environments),
            "policy": arguments.policy,
            "policy_content": policy_identity(arguments.policy),
            "temperature": arguments.temperature,
            "max_turns": arguments.max_turns,
            "max_prompt_tokens": arguments.max_prompt_tokens,
            "max_new_tokens": arguments.max_new_tokens,
            "thinking": arguments.thinking,
            "match": arguments.match,
            "trials": arguments.trials,
            "limit": arguments.limit,
            "seed": arguments.seed,
        },
        may_grow=("limit", "trials"),
        noted=("policy",),
        partly_known=("policy_content",),
    )
    out = Path(arguments.out)
    outcomes: Counter[str] = Counter()
    broken: Counter[str] = Counter()  # faults by their text
    turns: Counter[bool] = Counter()  # by whether they were truncated
    with (
        JsonlWriter(out / "trajectories.jsonl", key=("id", "trial")) as rows,
        JsonlWriter(out / "faults.jsonl", key=("id", "trial"), fresh=True) as faults,
        tqdm(total=len(environments) * arguments.trials, initial=len(rows.done), unit="episode", desc="collect") as bar,
    ):
        resumed = len(rows.done)

        def keep(episode: Episode) -> None:
            outcomes[episode.outcome] += 1
            turns.update(generation.truncated for generation in episode.generations)
            if episode.outcome == "fault":
                broken[episode.fault] += 1
                faults.write({"id": episode.id, "trial": episode.trial, "fault": episode.fault})
            else:
                rows.write(trajectory_row(episode))
            bar.update()

        if resumed < len(environments) * arguments.trials:
            policy = load_policy(
                arguments.policy,
                temperature=arguments.temperature,
                max_new_tokens=arguments.max_new_tokens,
                thinking=arguments.thinking,
                seed=arguments.seed,
                max_prompt_tokens=arguments.max_prompt_tokens,
                batch_size=arguments.batch_size,
                device=arguments.device,
                concurrency=arguments.in_flight,
            )
            play(
                policy,
                environments,
                max_turns=arguments.max_turns,
                trials=arguments.trials,
                seed=arguments.seed,
                match=arguments.match,
                on_episode=keep,
                in_flight=arguments.in_flight or IN_FLIGHT,
                skip=lambda case, trial: (case, trial) in rows.done,
            )
        total = len(rows.done)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "nothing new to play"
    print(f"wrote {out / 'trajectories.jsonl'}: {total} episodes ({resumed} from earlier runs; {counted})")
    print(cut_off_text(turns[True], turns.total(), arguments.max_new_tokens), end="")
    print(faults_line(broken.elements(), len(environments) * arguments.trials, out), end="")
    require_played(broken, outcomes.total(), total, out)
    return 0


def main() -> int:
    parser = ScriptParser(__doc__, "python -m train.collect_trajectories")
    parser.add_argument("--environments", required=True, help="environments, JSONL or Parquet")
    parser.add_argument(
        "--policy", required=True, help="hf:DIR, vllm:DIR, openai:MODEL@BASE_URL, oracle, random, replay:FILE"
    )
    parser.add_argument("--out", required=True, help="output folder")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-turns", type=int, default=20)
    parser.add_argument(
        "--max-prompt-tokens", type=int, default=16384, help="a longer prompt ends its episode (outcome too_long)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=1024,
        help="token limit of a turn; paper: 1024 plain, 8192 thinking",
    )
    parser.add_argument("--thinking", action="store_true")
    parser.add_argument("--match", choices=MATCHES, default="published")
    parser.add_argument("--trials", type=int, default=1, help="episodes per environment")
    parser.add_argument("--limit", type=int, default=None, help="play only the first N environments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=64, help="sequences per batch (hf only)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="hf only; auto: the GPU if there is one")
    parser.add_argument(
        "--in-flight",
        type=at_least_one,
        default=None,
        help=f"concurrent episodes, on all GPUs together (default: {IN_FLIGHT}); for a server, concurrent requests "
        f"(default: {SERVER_REQUESTS})",
    )
    return collect(parser.parse_args())


if __name__ == "__main__":
    run_main(main)
