"""Measure a policy on environments: the test split of this project, or any file in the authors' format.

Inputs: a policy, environments (JSONL or Parquet).
Outputs, in --out: `results.jsonl` (one row per episode: scores, failure, transcript), `summary.json` (metrics with 95%
intervals, by scenario and by number of sub-questions), `faults.jsonl` (episodes that the infrastructure broke: not
scored; the next call plays them again), `configuration.json`. Resumable by (id, trial).

Metrics:
- Solve-P, Solve-R and Solve-F1, averaged over cases
- `solve_f1_from_averages`, the harmonic mean of averaged P and R, because papers differ in the definition
- answer accuracy
- the decomposition: `format_rate` (turns whose calls all parse), `tool_rate` (calls that name a tool with an unsolved
  sub-question), `argument_rate` (those calls that solve it)

If environments have constraints (`env_construction.build --constraints`), each of their rows also has
`constraints_broken` (kind, text, and the first turn that broke it), and the summary these shares of episodes:
- `constraints_kept`: all constraints kept; `kept_KIND`: the constraints of this kind kept
- `solved_and_kept`: everything solved, the answer right, and all constraints kept

Example:
    python -m eval.environments --policy hf:outputs/cpu/start --data outputs/cpu/environments/test.jsonl \\
        --out outputs/cpu/eval/start

Source: paper/README.md, "Evaluation" (own test split: 4 scenarios, at most 20 turns, greedy).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from env_construction.environment.constraints import KINDS, first_broken
from env_construction.environment.jsonl import run_main
from env_construction.environment.matching import MATCHES
from env_construction.environment.schema import Environment
from eval.suites.games import OnRow, Play
from eval.suites.results import Metric, RatioMetric, f1_of_means, table_text
from eval.suites.suite import DataMissing, ordered_rows, row_files, run_suite, suite_parser
from reward.scoring import TurnScore
from reward.tool_calls import CALL_MARKS
from train.collect_trajectories import load_environments
from train.policies.interface import Policy
from train.policies.prompts import has_system_message
from train.policies.rollout import Episode, cut_off_text, play
from train.policies.specs import IN_FLIGHT

SUITE = "environments"
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
CONSTRAINT_METRICS = ("solved_and_kept", "constraints_kept", *(f"kept_{kind}" for kind in KINDS))
HEADLINES = ("solve_f1", "answer_correct")
GROUPS = {"by_scenario": "scenario", "by_hops": "hops"}


def result_row(episode: Episode) -> dict[str, Any]:
    """The result row of an episode.

    The counts behind the rates (`parsed_calls`, `malformed_calls`, `needed_calls`) are included for eval.compare. A
    rate with denominator 0 (no call made) is None and excluded from means.
    """
    start, score = episode.start, episode.score
    parsed_calls = sum(len(turn.parsed.calls) for turn in episode.turns)
    needed_calls = sum(_needed(turn) for turn in episode.turns)
    solving = [solved for turn in episode.turns for solved in turn.solved]
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
        "argument_rate": sum(map(bool, solving)) / needed_calls if needed_calls else None,
        "parsed_calls": parsed_calls,
        "malformed_calls": sum(len(turn.parsed.malformed) or _stray_tag(turn) for turn in episode.turns),
        "needed_calls": needed_calls,
        "completion_tokens": sum(generation.tokens for generation in episode.generations),
        "seconds": round(episode.seconds, 3),
        **_constraint_columns(episode),
        "transcript": episode.state.messages,
        "turn_scores": [
            {
                "reward": turn.reward,
                "kind": turn.kind,
                "p": turn.p,
                "q": turn.q,
                "t": turn.t,
                **({"harm": turn.harm} if turn.harm else {}),
                "solved": ["; ".join(solved) or None for solved in turn.solved],
                "status": [result.status for result in turn.results],
                "text": generation.text,
                "tokens": generation.tokens,
                "prompt_tokens": generation.prompt_tokens,
                "truncated": generation.truncated,
            }
            for turn, generation in zip(episode.turns, episode.generations, strict=True)
        ],
    }


def _constraint_columns(episode: Episode) -> dict[str, Any]:
    """Which constraints the episode broke and in which turn; empty for an environment without constraints."""
    constraints = episode.start.constraints
    if not constraints:
        return {}
    turns = [([call.name for call in turn.parsed.calls], turn.parsed.content) for turn in episode.turns]
    broken = first_broken(constraints, turns, answered=episode.outcome == "answered")
    kinds = {item.kind for item in broken}
    return {
        "constraints_broken": [{"kind": item.kind, "turn": item.turn, "text": item.text} for item in broken],
        "constraints_kept": not broken,
        "solved_and_kept": not broken and failure_of(episode) == "",
        **{f"kept_{kind}": kind not in kinds for kind in dict.fromkeys(item.kind for item in constraints)},
    }


def _cut_off_turns(rows: list[dict[str, Any]]) -> dict[str, int]:
    """The number of turns that ended at the token limit, and the number of all turns."""
    cut = [turn["truncated"] for row in rows for turn in row["turn_scores"]]
    return {"cut_off": sum(cut), "all": len(cut)}


def _stray_tag(turn: TurnScore) -> bool:
    """Whether a turn contains a call tag but no block that could be parsed as a call."""
    parsed = turn.parsed
    return not parsed.calls and not parsed.malformed and any(mark in parsed.text for mark in CALL_MARKS)


def _needed(turn: TurnScore) -> int:
    """The number of calls in a turn that name a tool with something unsolved.

    What earlier calls of the turn solved no longer counts as unsolved. `unsolved_set` is the state after the turn, so
    what this turn solved is added back first.
    """
    left = {tool: len(answers) for tool, answers in turn.unsolved_set.items()}
    for call, solved in zip(turn.parsed.calls, turn.solved, strict=True):
        if solved:
            left[call.name] = left.get(call.name, 0) + len(solved)
    needed = 0
    for call, solved in zip(turn.parsed.calls, turn.solved, strict=True):
        needed += left.get(call.name, 0) > 0
        if solved:
            left[call.name] -= len(solved)
    return needed


def failure_of(episode: Episode) -> str:
    """The first failure that applies; empty if the episode solved everything and gave no wrong answer."""
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
    has_answer = episode.state.answer is not None
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
    """Play what `out/results.jsonl` lacks; returns all rows (ordered by id, then trial) and the count of new faults."""
    with row_files(out, len(environments) * trials, policy.name) as (done, keep, faults):
        play(
            policy,
            environments,
            max_turns=max_turns,
            trials=trials,
            seed=seed,
            match=match,
            on_episode=lambda episode: keep(_row(episode)),
            in_flight=in_flight,
            skip=lambda case, trial: (case, trial) in done,
        )
        broken = faults.total()
    return ordered_rows(out, [environment.id for environment in environments]), broken


def _row(episode: Episode) -> dict[str, Any]:
    if episode.outcome == "fault":
        return {"id": episode.id, "trial": episode.trial, "outcome": "fault", "fault": episode.fault}
    return result_row(episode)


def parser() -> argparse.ArgumentParser:
    """The command-line parser of this suite."""
    flags = suite_parser(__doc__, "python -m eval.environments")
    flags.add_argument("--max-turns", type=int, default=20)
    flags.add_argument("--match", choices=MATCHES, default="published")
    return flags


def run(arguments: argparse.Namespace, policy: Policy | None = None) -> dict[str, Any]:
    """Play and score; returns the summary. A `policy` that is already loaded is used as it is. Raises BadInput."""
    if not Path(arguments.data).is_file():
        raise DataMissing(
            f"{arguments.data}: no such file; expected environments as JSONL (build some with env_construction.build)"
        )
    environments = load_environments(arguments.data, arguments.limit)
    has_constraints = any(environment.constraints for environment in environments)

    def play_left(policy: Policy, left: Sequence[Play], on_row: OnRow) -> None:
        wanted = set(left)
        play(
            policy,
            environments,
            max_turns=arguments.max_turns,
            trials=arguments.trials,
            seed=arguments.seed,
            match=arguments.match,
            on_episode=lambda episode: on_row(_row(episode)),
            in_flight=arguments.in_flight or IN_FLIGHT,
            skip=lambda case, trial: (case, trial) not in wanted,
        )

    summary = run_suite(
        arguments,
        SUITE,
        case_ids=[environment.id for environment in environments],
        play=play_left,
        metrics=METRICS + (CONSTRAINT_METRICS if has_constraints else ()),
        groups=GROUPS,
        data_files=[arguments.data],
        settings={"max_turns": arguments.max_turns, "match": arguments.match},
        shown=("solve_p", "solve_r", "solve_f1", "answer_correct", "format_rate", "tool_rate", "argument_rate"),
        headline="solve_f1",
        policy=policy,
        system_messages=any(has_system_message(environment) for environment in environments),
        extra=lambda rows: {"match": arguments.match, "cut_off_turns": _cut_off_turns(rows)},
    )
    if has_constraints:
        print(table_text({name: {"share": summary["metrics"][name]} for name in CONSTRAINT_METRICS}, ("share",)))
    cut_off = summary.get("cut_off_turns", {"cut_off": 0, "all": 0})  # older summaries lack this count
    print(cut_off_text(cut_off["cut_off"], cut_off["all"], arguments.max_new_tokens), end="")
    return summary


def main() -> int:
    run(parser().parse_args())
    return 0


if __name__ == "__main__":
    run_main(main)
