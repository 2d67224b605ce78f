"""The loop that every suite shares: many cases in play at once, rows that survive a kill, a summary with intervals.

Inputs: a policy, the cases of a suite. Outputs, in --out: `results.jsonl` (one row a case and trial), `faults.jsonl` (what the
infrastructure broke: not scored, played again by the next call), `summary.json`, `configuration.json`. A run in which no case could
be played ends with the fault's words and exit code 2.

How a suite is written. Its module, `eval/<name>.py`, exposes four things, which `eval.run` imports when it needs them:

    SUITE = "rotbench"                                      the name
    def parser() -> argparse.ArgumentParser                 suite_parser(...) and the suite's own flags
    def run(arguments, policy=None) -> dict[str, Any]       plays and returns the summary; `policy`, if given, is loaded already
    def main() -> int                                       run(parser().parse_args()); return 0

`eval.run` lists the module in its table SUITES, with the metrics that stand for it. `run` checks its data first: files that are absent raise DataMissing (what, and where it comes from), which `eval.run` reports
as a skipped suite. It then calls `run_suite` with a `play` function. For a conversation, `play` is `play_games` with the suite's
`make_game`; a case in play is a `Game`, which needs to know nothing of batches, seeds, threads, files or tokens:

    class CoinGame:                                         # one case: ask, hear, answer
        def __init__(self, case, trial):
            self.id, self.trial, self.done = case["id"], trial, False
            self.state = conversation(case["id"], [{"role": "user", "content": case["question"]}], tools)
        def hear(self, generation):                         # one model turn
            turn = parse_turn(generation.text, "strict")
            self.state = with_messages(self.state, assistant_message(turn), {"role": "user", "content": "Sure?"})
            self.done = ...
        def row(self, outcome):                             # the suite's columns
            return {"correct": ..., "failure": "" if ... else "wrong"}

    run_suite(arguments, SUITE, case_ids=[...], metrics=("correct",), data_files=[path], policy=policy,
              play=lambda policy, plays, on_row: play_games(policy, plays, lambda case_id, trial: CoinGame(cases[case_id], trial),
                                                            seed=arguments.seed, in_flight=arguments.in_flight, max_turns=30,
                                                            on_row=on_row, threads=32))

Source: paper/README.md, "Evaluation", defect 10 (no batches, no seeds, no repeats, no intervals).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, JsonlWriter, file_sha256, keep_configuration
from eval.suites.games import Game, GameFault, GoldGame, OnRow, Play, conversation, play_games, with_messages
from eval.suites.results import Metric, read_rows, summarize, table_text, write_summary
from train.policies.identity import policy_identity
from train.policies.interface import Policy, TemplatedPolicy
from train.policies.rollout import require_played
from train.policies.specs import SPECS, load_policy
from train.stages.faults import faults_line, faults_text

__all__ = [
    "DataMissing",
    "Game",
    "GameFault",
    "GoldGame",
    "OnRow",
    "Play",
    "conversation",
    "load_suite_policy",
    "one_policy",
    "ordered_rows",
    "play_games",
    "resolution_text",
    "row_files",
    "run_suite",
    "suite_parser",
    "with_messages",
]

SAMPLING = ("seed", "temperature", "max_new_tokens", "max_prompt_tokens", "thinking", "dtype")
"""What decides what a policy says: recorded with the results."""
POLICY_SETTINGS = (*SAMPLING, "batch_size")
RECORDED = ("policy", "limit", "trials", *SAMPLING)
EXTENDABLE = ("limit", "trials")
"""What a later call may raise: only the rows that are missing are then made."""


class DataMissing(BadInput):
    """A suite's data are not there. The message says which file, where it comes from, and how to get it."""


def suite_parser(docstring: str | None, command: str, data: str | None = None) -> argparse.ArgumentParser:
    """The flags that all suites share. `data` is the default of --data; None makes the flag required."""
    parser = ScriptParser(docstring, command)
    parser.add_argument("--policy", required=True, help=", ".join(SPECS))
    parser.add_argument("--data", required=data is None, default=data, help="where the cases are")
    parser.add_argument("--out", required=True, help="result folder")
    parser.add_argument(
        "--limit", type=int, default=None, help="only the first N cases (of each group, where a suite has groups)"
    )
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="tokens a turn")
    parser.add_argument(
        "--max-prompt-tokens", type=int, default=None, help="default: all that the model's context leaves"
    )
    parser.add_argument("--thinking", action="store_true")
    parser.add_argument(
        "--dtype",
        default=None,
        help="of hf and vllm, as bfloat16; default: the checkpoint's on a GPU, float32 on a CPU",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="sequences in one batch of hf")
    parser.add_argument("--in-flight", type=int, default=1024, help="cases in play at once, on all GPUs together")
    return parser


_kept_policies: dict[tuple[Any, ...], Policy] | None = None


@contextmanager
def one_policy() -> Iterator[None]:
    """Inside, suites with the same policy and settings share one loaded model; another one takes its place."""
    global _kept_policies
    _kept_policies = {}
    try:
        yield
    finally:
        _kept_policies = None


def load_suite_policy(arguments: argparse.Namespace) -> Policy:
    """The policy that a suite's arguments name. Raises BadInput."""
    settings = {name: getattr(arguments, name) for name in POLICY_SETTINGS}
    key = (arguments.policy, *settings.values())
    if _kept_policies is not None and key in _kept_policies:
        return _kept_policies[key]
    if _kept_policies is not None:
        _kept_policies.clear()
    policy = load_policy(arguments.policy, **settings)
    if _kept_policies is not None:
        _kept_policies[key] = policy
    return policy


@contextmanager
def row_files(out: Path, total: int, label: str) -> Iterator[tuple[set[Any], OnRow, Counter[str]]]:
    """The files that rows go to: yields what is done already, the row's way in, and the faults so far, by their text."""
    faults: Counter[str] = Counter()
    with (
        JsonlWriter(out / "results.jsonl", key=("id", "trial")) as rows,
        JsonlWriter(out / "faults.jsonl", key=("id", "trial"), fresh=True) as broken,
        tqdm(total=total, initial=len(rows.done), unit="episode", desc=label) as bar,
    ):

        def keep(row: dict[str, Any]) -> None:
            if row["outcome"] == "fault":
                faults[str(row["fault"])] += 1
                broken.write(row)
            else:
                rows.write(row)
            bar.update()

        yield rows.done, keep, faults


def ordered_rows(out: Path, case_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The rows that `out` holds so far, in the order of `case_ids`, then by trial. Raises BadInput for a row of another case."""
    order = {case_id: place for place, case_id in enumerate(case_ids)}
    file = out / "results.jsonl"
    found = read_rows(file) if file.exists() and file.stat().st_size else []
    if strange := sorted({str(row["id"]) for row in found} - order.keys()):
        raise BadInput(
            f"{file}: id {strange[0]!r} is not among the {len(order)} cases asked for; choose another folder"
        )
    return sorted(found, key=lambda row: (order[row["id"]], row["trial"]))


def run_suite(
    arguments: argparse.Namespace,
    suite: str,
    *,
    case_ids: Sequence[str],
    play: Callable[[Policy, list[Play], OnRow], None],
    metrics: Sequence[Metric],
    data_files: Sequence[Path | str],
    groups: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    shown: Sequence[str] | None = None,
    headline: str | None = None,
    policy: Policy | None = None,
    system_messages: bool = False,
    extra: Callable[[list[dict[str, Any]]], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Play what the result folder does not hold yet, write and print the summary, return it.

    `case_ids`: all cases, in order, without repeats. `play(policy, plays, on_row)` plays the (case id, trial) pairs that are
    left and hands over each row. `settings` are the suite's own choices: they join the recorded configuration, and a folder
    that was made with others, or by a policy of other content, is refused. --limit and --trials can be raised: the run is extended. `shown` are the printed metrics (default: all), `headline` (default: the first of them) is
    the one whose smallest resolvable difference is printed. `policy` is one that is loaded already, else it is loaded when something is left to play.
    `system_messages`: tool conversations begin with one, which a chat template may refuse or drop.
    `extra(rows)` adds the suite's own keys to the summary, beside the configuration. Raises BadInput, also where all that
    was left has failed (require_played).
    """
    begun = time.monotonic()
    out = Path(arguments.out)
    if not case_ids:
        raise BadInput(f"{', '.join(map(str, data_files))}: holds no cases")
    configuration = {name: getattr(arguments, name) for name in RECORDED} | dict(settings or {})
    hashes = _hashes(data_files)
    configuration["data_sha256"] = next(iter(hashes.values())) if len(hashes) == 1 else hashes
    configuration["policy_content"] = policy_identity(arguments.policy)
    contents = tuple(name for name in configuration if name.endswith("_content"))  # the policy's, a simulated user's
    specs = tuple(name.removesuffix("_content") for name in contents)
    keep_configuration(out, configuration, may_grow=EXTENDABLE, noted=specs, partly_known=contents)
    total = len(case_ids) * arguments.trials
    with JsonlWriter(out / "results.jsonl", key=("id", "trial")) as written:  # cuts off a line torn by a kill
        left = [
            (case, trial) for case in case_ids for trial in range(arguments.trials) if (case, trial) not in written.done
        ]
    faults: Counter[str] = Counter()
    if left:
        policy = policy or load_suite_policy(arguments)
        if isinstance(policy, TemplatedPolicy):
            policy.check_template(system_messages)
        with row_files(out, total, getattr(arguments, "label", "") + policy.name) as (_, keep, faults):
            play(policy, left, keep)
    elif (kept := _kept_summary(out)).get("rows") == total:
        print(f"{out}: all {total} episodes are there, nothing to do")
        return kept
    rows = ordered_rows(out, case_ids)
    summary = summarize(
        suite,
        arguments.policy,
        rows,
        metrics,
        groups=groups,
        seed=arguments.seed,
        seconds=time.monotonic() - begun,
        extra={
            "data_sha256": hashes,
            "faults": faults.total(),
            "faults_text": faults_text(faults.elements(), total),
            **(extra(rows) if extra else {}),
            "configuration": configuration,
        },
    )
    path = write_summary(out, summary)
    shown = shown or [metric if isinstance(metric, str) else metric.name for metric in metrics]
    print(table_text({"all": summary["metrics"], **(summary[next(iter(groups))] if groups else {})}, shown))
    print(resolution_text(summary, headline or shown[0]), end="")
    print(f"wrote {out / 'results.jsonl'} ({len(rows)} rows) and {path}")
    print(faults_line(faults.elements(), total, out), end="")
    require_played(faults, len(left), len(rows), out)
    return summary


def _kept_summary(out: Path) -> dict[str, Any]:
    """The summary of a former call; empty where there is none, or a killed call left it unreadable."""
    try:
        return dict(json.loads((out / "summary.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _hashes(files: Sequence[Path | str]) -> dict[str, str]:
    """SHA-256 by file name; files of one name in several folders are named from the folder that they share."""
    paths = [Path(file) for file in files]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        shared = os.path.commonpath([path.resolve().parent for path in paths])
        names = [str(path.resolve().relative_to(shared)) for path in paths]
    return {name: file_sha256(path) for name, path in zip(names, paths, strict=True)}


def resolution_text(summary: Mapping[str, Any], metric: str) -> str:
    """A line on the smallest paired difference that a summary's cases can resolve; empty if that is unknown."""
    smallest = summary["smallest_resolvable_difference"].get(metric)
    if smallest is None:
        return ""
    cases = summary["metrics"][metric]["n"]
    return f"the smallest paired difference in {metric} that {cases} cases resolve at 80% power: {100 * smallest:.1f} points\n"
