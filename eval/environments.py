"""Measure a policy on environments: our own test split, or any file in the authors' format.

Inputs: a policy, environments (JSONL). Outputs, in --out: `results.jsonl` (one row an episode: scores, failure, transcript),
`summary.json` (metrics with 95% intervals, by scenario and by number of sub-questions), `faults.jsonl` (episodes that the
infrastructure broke: not scored, played again by the next call), `configuration.json`. Resumable by (id, trial).

Metrics: Solve-P, Solve-R, Solve-F1 averaged over cases; `solve_f1_from_averages`, the harmonic mean of averaged P and R, since
papers differ; answer accuracy; and the decomposition: `format_rate` (turns whose calls all parse), `tool_rate`
(calls that name a tool with something unsolved), `argument_rate` (those calls that solve it).

Example:
    python -m eval.environments --policy hf:outputs/cpu/start --data outputs/cpu/environments/test.jsonl --out outputs/cpu/eval/start

Source: paper/README.md, "Evaluation" (own test split: 4 scenarios, at most 20 turns, greedy).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.jsonl import BadInput, JsonlWriter, file_sha256, keep_configuration, run_main
from env_construction.matching import MATCHES
from env_construction.schema import Environment
from eval.results import Metric, RatioMetric, f1_of_means, read_rows, summarize, table_text, write_summary
from reward.scoring import TurnScore
from reward.tool_calls import CALL_MARKS
from train.collect_trajectories import load_environments
from train.policies import Policy, load_policy
from train.rollout import Episode, play

METRICS: tuple[Metric, ...] = (
    "solve_p",
    "solve_r",
    "solve_f1",
    RatioMetric("solve_f1_from_averages", ("solve_p", "solve_r"), f1_of_means),
    "answer_correct",
    "format_rate",
    "tool_rate",
    "argument_rate",
    "turns",
    "calls",
    "completion_tokens",
)
GROUPS = {"by_scenario": "scenario", "by_hops": "hops"}


def result_row(start: Environment, episode: Episode) -> dict[str, Any]:
    """The row of an episode. `start` is the environment as it was before the first turn.

    Beside the rates stand the counts they come from (`parsed_calls`, `malformed_calls`, `needed_calls`), for eval.compare. A rate
    over nothing (no call made) is None and counts in no mean.
    """
    score = episode.score
    parsed_calls = sum(len(turn.parsed.calls) for turn in episode.turns)
    needed_calls = sum(_needed(turn) for turn in episode.turns)
    spoken = [turn for turn in episode.turns if turn.parsed.text]
    well_formed = sum(not turn.parsed.malformed and not _stray_tag(turn) for turn in spoken)
    return {
        "id": episode.id,
        "trial": episode.trial,
        "seed": episode.seed,
        "scenario": start.scenario,
        "hops": start.unsolved_count,
        "outcome": episode.outcome,
        "failure": failure_of(episode),
        "turns": len(episode.turns),
        "calls": score.calls,
        "solved": score.solved,
        "sub_questions": score.sub_questions,
        "solve_p": score.solve_p,
        "solve_r": score.solve_r,
        "solve_f1": score.solve_f1,
        "answer_correct": score.answer_correct if start.answer is not None else None,
        "format_rate": well_formed / len(spoken) if spoken else None,
        "tool_rate": needed_calls / parsed_calls if parsed_calls else None,
        "argument_rate": score.solved / needed_calls if needed_calls else None,
        "parsed_calls": parsed_calls,
        "malformed_calls": sum(len(turn.parsed.malformed) or _stray_tag(turn) for turn in episode.turns),
        "needed_calls": needed_calls,
        "completion_tokens": sum(generation.tokens for generation in episode.generations),
        "seconds": round(episode.seconds, 3),
        "transcript": episode.environment.messages,
        "turn_scores": [
            {
                "reward": turn.reward,
                "kind": turn.kind,
                "p": turn.p,
                "q": turn.q,
                "t": turn.t,
                "solved": list(turn.solved),
                "status": [result.status for result in turn.results],
                "text": generation.text,
                "tokens": generation.tokens,
                "prompt_tokens": generation.prompt_tokens,
                "truncated": generation.truncated,
            }
            for turn, generation in zip(episode.turns, episode.generations, strict=True)
        ],
    }


def _stray_tag(turn: TurnScore) -> bool:
    """A turn with a call's tag and no block that could be read as a call at all."""
    parsed = turn.parsed
    return not parsed.calls and not parsed.malformed and any(mark in parsed.text for mark in CALL_MARKS)


def _needed(turn: TurnScore) -> int:
    """Calls of a turn that name a tool with something unsolved; what earlier calls of the turn solved is taken off.

    `unsolved_set` is the state after the turn: what this turn solved is added back first.
    """
    left = {tool: len(answers) for tool, answers in turn.unsolved_set.items()}
    for call, solved in zip(turn.parsed.calls, turn.solved, strict=True):
        if solved is not None:
            left[call.name] = left.get(call.name, 0) + 1
    needed = 0
    for call, solved in zip(turn.parsed.calls, turn.solved, strict=True):
        needed += left.get(call.name, 0) > 0
        if solved is not None:
            left[call.name] -= 1
    return needed


def failure_of(episode: Episode) -> str:
    """What went wrong, the first that applies; empty for an episode that solved all and did not answer wrongly."""
    if episode.outcome != "answered":
        return episode.outcome
    last, generation = episode.turns[-1], episode.generations[-1]
    if generation.truncated:
        return "truncated"
    if last.kind in ("empty", "malformed"):
        return last.kind
    score = episode.score
    if score.calls == 0:
        return "no_calls"
    if score.solved < score.sub_questions:
        return "unsolved"
    has_answer = episode.environment.answer is not None
    return "wrong_answer" if has_answer and not score.answer_correct else ""


def evaluate(
    policy: Policy,
    environments: list[Environment],
    out: Path,
    *,
    trials: int = 1,
    seed: int = 0,
    max_turns: int = 20,
    match: str = "published",
    in_flight: int = 256,
) -> tuple[list[dict[str, Any]], int]:
    """Play what `out/results.jsonl` does not hold yet; returns all rows in order (id as given, trial) and the faults of this run."""
    starts = {environment.id: environment for environment in environments}
    faults = 0
    with (
        JsonlWriter(out / "results.jsonl", key=("id", "trial")) as rows,
        JsonlWriter(out / "faults.jsonl", key=("id", "trial"), fresh=True) as broken,
        tqdm(total=len(environments) * trials, initial=len(rows.done), unit="episode", desc=policy.name) as bar,
    ):

        def keep(episode: Episode) -> None:
            nonlocal faults
            if episode.outcome == "fault":
                faults += 1
                broken.write({"id": episode.id, "trial": episode.trial, "outcome": "fault", "fault": episode.fault})
            else:
                rows.write(result_row(starts[episode.id], episode))
            bar.update()

        play(
            policy,
            environments,
            max_turns=max_turns,
            trials=trials,
            seed=seed,
            match=match,
            on_episode=keep,
            in_flight=in_flight,
            skip=lambda case, trial: (case, trial) in rows.done,
        )
    return ordered_rows(out, environments), faults


def ordered_rows(out: Path, environments: list[Environment]) -> list[dict[str, Any]]:
    """The rows that `out` holds so far, in the order of the environments, then by trial."""
    order = {environment.id: place for place, environment in enumerate(environments)}
    file = out / "results.jsonl"
    found = read_rows(file) if file.exists() and file.stat().st_size else []
    return sorted(found, key=lambda row: (order[row["id"]], row["trial"]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m eval.environments"
    )
    parser.add_argument(
        "--policy", required=True, help="hf:DIR, vllm:DIR, openai:MODEL@BASE_URL, oracle, random, replay:FILE"
    )
    parser.add_argument("--data", required=True, help="environments, JSONL (ours or the authors')")
    parser.add_argument("--out", required=True, help="result folder")
    parser.add_argument("--limit", type=int, default=None, help="only the first N environments")
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--max-turns", type=int, default=20)
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="tokens a turn")
    parser.add_argument(
        "--max-prompt-tokens", type=int, default=None, help="default: all that the model's context leaves"
    )
    parser.add_argument("--thinking", action="store_true")
    parser.add_argument("--match", choices=MATCHES, default="published")
    parser.add_argument("--batch-size", type=int, default=64, help="sequences in one batch of hf")
    parser.add_argument("--in-flight", type=int, default=256, help="episodes at once")
    arguments = parser.parse_args()

    begun = time.monotonic()
    environments = load_environments(arguments.data, arguments.limit)
    if not environments:
        raise BadInput(f"{arguments.data}: holds no environments")
    out = Path(arguments.out)
    recorded = ("policy", "limit", "trials", "seed", "temperature", "max_turns", "max_new_tokens", "max_prompt_tokens")
    configuration = {name: getattr(arguments, name) for name in (*recorded, "thinking", "match")}
    configuration["data_sha256"] = file_sha256(arguments.data)
    keep_configuration(out, configuration)
    with JsonlWriter(out / "results.jsonl", key=("id", "trial")) as written:  # cuts off a line torn by a kill
        left = len(environments) * arguments.trials - len(written.done)
    faults = 0
    if left:
        policy = load_policy(
            arguments.policy,
            temperature=arguments.temperature,
            max_new_tokens=arguments.max_new_tokens,
            thinking=arguments.thinking,
            seed=arguments.seed,
            max_prompt_tokens=arguments.max_prompt_tokens,
            batch_size=arguments.batch_size,
        )
        rows, faults = evaluate(
            policy,
            environments,
            out,
            trials=arguments.trials,
            seed=arguments.seed,
            max_turns=arguments.max_turns,
            match=arguments.match,
            in_flight=arguments.in_flight,
        )
    elif (out / "summary.json").exists():
        print(f"{out}: all {len(environments) * arguments.trials} episodes are there, nothing to do")
        return 0
    else:
        rows = ordered_rows(out, environments)
    summary = summarize(
        "environments",
        arguments.policy,
        rows,
        METRICS,
        groups=GROUPS,
        seed=arguments.seed,
        seconds=time.monotonic() - begun,
        data=[arguments.data],
        extra={"faults": faults, "match": arguments.match, "configuration": configuration},
    )
    path = write_summary(out, summary)
    shown = ("solve_p", "solve_r", "solve_f1", "answer_correct", "format_rate", "tool_rate", "argument_rate")
    print(table_text({"all": summary["metrics"], **summary["by_scenario"]}, shown))
    smallest = summary["smallest_resolvable_difference"]["solve_f1"]
    if smallest is not None:
        print(
            f"the smallest paired difference in Solve-F1 that {len(environments)} cases resolve at 80% power: {100 * smallest:.1f} points"
        )
    print(f"wrote {out / 'results.jsonl'} ({len(rows)} rows, {faults} faults left out) and {path}")
    return 0


if __name__ == "__main__":
    run_main(main)
