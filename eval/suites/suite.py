"""The loop that every suite shares: many cases in parallel, rows that survive a kill, a summary with intervals.

Inputs: a policy and the cases of a suite.
Outputs, in --out: `results.jsonl` (one row per case and trial), `faults.jsonl` (cases that the infrastructure broke:
not scored; the next call plays them again), `summary.json`, `configuration.json`. A run in which no case could be
played ends with the fault's text and exit code 2.

To write a suite, create a module `eval/<name>.py` with five things, which `eval.run` imports when it needs them:

    SUITE = "rotbench"                                      the name
    HEADLINES = ("ts_published", ...)                       the metrics that may support a conclusion
    def parser() -> argparse.ArgumentParser                 suite_parser(...) and the suite's own flags
    def run(arguments, policy=None) -> dict[str, Any]       play; return the summary; use `policy` if given
    def main() -> int                                       run(parser().parse_args()); return 0

Add the module to the table SUITES of `eval.run`, and the formulas of its headline metrics to eval/suites/protocol.py.
`run` checks its data first: missing files raise DataMissing (what is missing and where it comes from), which `eval.run`
reports as a skipped suite. It then calls `run_suite` with a `play` function. For a conversation, `play` is
`game_player` with the suite's games (eval/suites/games.py). A `SuiteGame` is one active case. It does not handle
batches, seeds, threads, files or tokens:

    class CoinGame(SuiteGame):                              # one case
        def __init__(self, case, trial):
            question = [{"role": "user", "content": case["question"]}]
            super().__init__(case["id"], trial, conversation(case["id"], question, tools))
        def hear(self, generation):                         # one model turn
            turn = parse_turn(generation.text, "strict")
            self.state = with_messages(self.state, assistant_message(turn), {"role": "user", "content": "Sure?"})
            self.done = ...
        def row(self, outcome):                             # the suite's columns
            return {"correct": ..., "failure": "" if ... else "wrong"}

    make_game = lambda case_id, trial: CoinGame(cases[case_id], trial)
    run_suite(arguments, SUITE, case_ids=[...], metrics=("correct",), data_files=[path], policy=policy,
              play=game_player(arguments, make_game, max_turns=30, threads=32))

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

from env_construction.environment.command_line import ScriptParser, at_least_one
from env_construction.environment.jsonl import BadInput, JsonlWriter, file_sha256, keep_configuration
from eval.suites.games import OnRow, PlayCases
from eval.suites.noise import cost, noise, noise_text
from eval.suites.protocol import protocol
from eval.suites.results import Metric, read_rows, summarize, table_text, write_summary
from train.policies.identity import policy_identity
from train.policies.interface import Policy, TemplatedPolicy
from train.policies.specs import IN_FLIGHT, SERVER_REQUESTS, SPECS, load_policy
from train.stages.faults import faults_line, faults_text, require_played

SAMPLING = ("seed", "temperature", "max_new_tokens", "max_prompt_tokens", "thinking", "dtype")
"""Settings that determine a policy's output; recorded with the results."""
POLICY_SETTINGS = (*SAMPLING, "batch_size")
RECORDED = ("policy", "limit", "trials", *SAMPLING)
EXTENDABLE = ("limit", "trials")
"""Settings that a later call may raise; it then plays only the missing rows."""


class DataMissing(BadInput):
    """A suite's data are missing. The message says which file, where it comes from, and how to get it."""


def suite_parser(docstring: str | None, command: str, data: str | None = None) -> argparse.ArgumentParser:
    """The flags that all suites share. `data` is the default of --data; None makes the flag required."""
    parser = ScriptParser(docstring, command)
    parser.add_argument("--policy", required=True, help=", ".join(SPECS))
    parser.add_argument("--data", required=data is None, default=data, help="file or folder with the cases")
    parser.add_argument("--out", required=True, help="result folder")
    parser.add_argument(
        "--limit", type=int, default=None, help="only the first N cases (per group, if the suite has groups)"
    )
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="token limit per turn")
    parser.add_argument(
        "--max-prompt-tokens", type=int, default=None, help="default: the space left in the model's context"
    )
    parser.add_argument("--thinking", action="store_true")
    parser.add_argument(
        "--dtype",
        default=None,
        help="for hf and vllm, such as bfloat16; default: the checkpoint's on a GPU, float32 on a CPU",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="sequences per batch, for hf")
    parser.add_argument(
        "--in-flight",
        type=at_least_one,
        default=None,
        help=f"cases in parallel, over all GPUs (default: {IN_FLIGHT}); for a server, requests in parallel (default: "
        f"{SERVER_REQUESTS})",
    )
    return parser


_kept_policies: dict[tuple[Any, ...], Policy] | None = None


@contextmanager
def one_policy() -> Iterator[None]:
    """Context in which suites with the same policy and settings share one loaded model; a different one replaces it."""
    global _kept_policies
    _kept_policies = {}
    try:
        yield
    finally:
        _kept_policies = None


def load_suite_policy(arguments: argparse.Namespace) -> Policy:
    """The policy that a suite's arguments name. Raises BadInput."""
    settings = {name: getattr(arguments, name) for name in POLICY_SETTINGS}
    in_flight = arguments.in_flight if arguments.policy.startswith("openai:") else None  # of no effect elsewhere
    key = (arguments.policy, in_flight, *settings.values())
    if _kept_policies is not None and key in _kept_policies:
        return _kept_policies[key]
    if _kept_policies is not None:
        _kept_policies.clear()
    policy = load_policy(arguments.policy, concurrency=in_flight, **settings)
    if _kept_policies is not None:
        _kept_policies[key] = policy
    return policy


@contextmanager
def row_files(out: Path, total: int, label: str) -> Iterator[tuple[set[Any], OnRow, Counter[str]]]:
    """The output files of rows: yields the finished cases, the function that saves a row, and fault counts by text."""
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
    """The rows that `out` contains so far, in the order of `case_ids`, then by trial.

    Raises BadInput for a row of an unknown case.
    """
    order = {case_id: place for place, case_id in enumerate(case_ids)}
    file = out / "results.jsonl"
    found = read_rows(file) if file.exists() and file.stat().st_size else []
    if strange := sorted({str(row["id"]) for row in found} - order.keys()):
        raise BadInput(f"{file}: id {strange[0]!r} is not among the {len(order)} requested cases; choose another --out")
    return sorted(found, key=lambda row: (order[row["id"]], row["trial"]))


def run_suite(
    arguments: argparse.Namespace,
    suite: str,
    *,
    case_ids: Sequence[str],
    play: PlayCases,
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
    """Play what the result folder lacks, write and print the summary, return it.

    - `case_ids`: all cases, in order, without repeats.
    - `play(policy, plays, on_row)` plays the remaining (case id, trial) pairs and passes on each row.
    - `settings`: the suite's own choices, part of the recorded configuration. A folder that was created with other
      settings, or by a policy with other content, is refused. --limit and --trials can be raised to extend a run.
    - `shown`: the printed metrics (default: all).
    - `headline`: the metric whose smallest resolvable difference is printed (default: the first of `shown`).
    - `policy`: a loaded policy; without it, one is loaded when something is left to play.
    - `system_messages`: tool conversations begin with a system message, which a chat template may refuse or drop.
    - `extra(rows)` adds the suite's own keys to the summary.

    Raises BadInput for a wrong configuration, or if every remaining case failed (require_played).
    """
    begun = time.monotonic()
    out = Path(arguments.out)
    if not case_ids:
        raise BadInput(f"{', '.join(map(str, data_files))}: contains no cases")
    configuration = {name: getattr(arguments, name) for name in RECORDED} | dict(settings or {})
    hashes = _hashes(data_files)
    configuration["data_sha256"] = next(iter(hashes.values())) if len(hashes) == 1 else hashes
    configuration["policy_content"] = policy_identity(arguments.policy)
    # contents of the policy and of a simulated user
    contents = tuple(name for name in configuration if name.endswith("_content"))
    specs = tuple(name.removesuffix("_content") for name in contents)
    keep_configuration(out, configuration, may_grow=EXTENDABLE, noted=specs, partly_known=contents)
    total = len(case_ids) * arguments.trials
    with JsonlWriter(out / "results.jsonl", key=("id", "trial")) as written:  # drops a last line that a kill truncated
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
        print(f"{out}: all {total} episodes are complete, nothing to do")
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
            "noise": noise(rows, metrics, arguments.seed),
            "cost": cost(rows, arguments.seed),
            **(extra(rows) if extra else {}),
            "protocol": protocol(suite, configuration, hashes),
            "configuration": configuration,
        },
    )
    path = write_summary(out, summary)
    shown = shown or [metric if isinstance(metric, str) else metric.name for metric in metrics]
    print(table_text({"all": summary["metrics"], **(summary[next(iter(groups))] if groups else {})}, shown))
    print(resolution_text(summary, headline or shown[0]), end="")
    print(noise_text(summary["noise"], headline or shown[0]), end="")
    print(f"wrote {out / 'results.jsonl'} ({len(rows)} rows) and {path}")
    print(faults_line(faults.elements(), total, out), end="")
    require_played(faults, len(left), len(rows), out)
    return summary


def _kept_summary(out: Path) -> dict[str, Any]:
    """The summary of an earlier call; empty if there is none, or if a kill left it unreadable."""
    try:
        return dict(json.loads((out / "summary.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _hashes(files: Sequence[Path | str]) -> dict[str, str]:
    """SHA-256 by file name; files with the same name are named relative to their common folder."""
    paths = [Path(file) for file in files]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        shared = os.path.commonpath([path.resolve().parent for path in paths])
        names = [str(path.resolve().relative_to(shared)) for path in paths]
    return {name: file_sha256(path) for name, path in zip(names, paths, strict=True)}


def resolution_text(summary: Mapping[str, Any], metric: str) -> str:
    """One line on the smallest paired difference that a summary's cases can resolve; empty if unknown."""
    smallest = summary["smallest_resolvable_difference"].get(metric)
    if smallest is None:
        return ""
    cases = summary["metrics"][metric]["n"]
    return (
        f"the smallest paired difference in {metric} that {cases} cases resolve at 80% power: "
        f"{100 * smallest:.1f} points\n"
    )
