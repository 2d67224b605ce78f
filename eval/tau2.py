"""tau2-bench (tau3-bench), the successor that tau-bench's authors recommend: corrected tasks, and users with own tools.

Inputs: a policy, a simulated user (--user-model), a checkout of sierra-research/tau2-bench with an environment of its
own (eval/tau/tau2_process.py). The package's own code runs the tools and gives the verdict, in that environment.
Outputs, in --out: one row per task and trial; `summary.json` with pass^k for k up to the number of trials, by domain
and as the *unweighted* mean of the domains.

An episode follows tau2-bench's half-duplex mode with its prompts:
- After the agent's greeting, the user starts. A turn with calls runs all of them; one without goes to the user.
- The user may call tools of its own (telecom), then speaks. Its ###STOP###, ###TRANSFER### or ###OUT-OF-SCOPE### ends
  the episode, and only then is it scored. It fails after 10 failed calls, an empty turn, or --max-turns.
- The reward is the product of the parts that a task names: database and assertions on it, actions, words to the user.

Assertions in natural language need a judge model and are not scored: `unjudged` is the share of tasks that have some
(112 of 114 in retail, whose reward is then the database alone). Rewards of those tasks are upper bounds. The user model
gets the package's prompt; text-only domains are supported (airline, retail, telecom; `mock` is the package's example).

The oracle makes the recorded actions, with the user `scripted`. It fails one task of `mock`, which asserts an action of
the user that is not among the recorded ones.

Example:
    python -m eval.tau2 --policy hf:PATH --user-model gpt-4.1-2025-04-14@https://api.openai.com/v1 --trials 4 \\
        --data ~/tau2-bench --out outputs/mine/tau2

Source: tau2-bench (arXiv 2506.07982); the README of sierra-research/tau-bench.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, file_sha256, json_text, run_main
from eval.download import DATA
from eval.suites.games import OnRow, Play, game_player
from eval.suites.results import GroupedMean, Metric, table_text
from eval.suites.suite import DataMissing, run_suite, suite_parser
from eval.tau.simulated_user import LINE_TOKENS, user_identity
from eval.tau.tau2_game import ModelTau2User, ReplayTau2User, ScriptedTau2User, Tau2Game, Tau2User
from eval.tau.tau2_process import Tau2Domain, Tau2Process, Tau2Task
from eval.tau_bench import summary_keys
from train.policies.interface import Policy
from train.policies.specs import load_policy

SUITE = "tau2"
DOMAINS = ("airline", "retail", "telecom", "mock")
PUBLISHED_DOMAINS = DOMAINS[:3]
MAX_TURNS = 100
DEFAULT_DATA = str(DATA / "tau2-bench")
HEADLINES = ("pass^1",)
COLUMNS = ("env", "action", "communicate", "db_match", "unjudged", "turns", "calls", "failed_calls")
METRICS: tuple[Metric, ...] = (
    GroupedMean("pass^1", "reward", "domain", of=PUBLISHED_DOMAINS),
    *(GroupedMean(column, column, "domain", of=PUBLISHED_DOMAINS) for column in (*COLUMNS, "completion_tokens")),
)


def load_user(spec: str, seed: int, concurrency: int) -> Tau2User:
    """The user that a spec names. Raises BadInput."""
    if spec == "scripted":
        return ScriptedTau2User()
    if spec.startswith("replay:"):
        return ReplayTau2User(spec.removeprefix("replay:"))
    if "@" not in spec:
        raise BadInput(f"--user-model {spec!r}: expected MODEL@BASE_URL, replay:FILE or scripted")
    policy = load_policy(
        f"openai:{spec.removeprefix('openai:')}",
        temperature=0.0,
        max_new_tokens=2 * LINE_TOKENS,
        concurrency=concurrency,
    )
    return ModelTau2User(policy, seed)


def parser() -> argparse.ArgumentParser:
    """The command-line parser of this suite."""
    made = suite_parser(__doc__, "python -m eval.tau2", data=DEFAULT_DATA)
    made.add_argument("--python", default=None, help="interpreter with the package's requirements (default: its .venv)")
    made.add_argument("--user-model", default=None, help="MODEL@BASE_URL, replay:FILE or scripted")
    made.add_argument("--user-threads", type=int, default=32, help="number of users active at once")
    made.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(PUBLISHED_DOMAINS))
    made.add_argument("--split", default="base", help="the package's split of tasks; all: every task (default: base)")
    made.add_argument("--max-turns", type=int, default=MAX_TURNS)
    return made


def run(arguments: argparse.Namespace, policy: Policy | None = None) -> dict[str, Any]:
    """Play what is left and return the summary. Raises DataMissing or BadInput."""
    names = [name for name in DOMAINS if name in arguments.domains]
    folder, threads = Path(arguments.data), max(1, arguments.user_threads)
    with Tau2Process(folder, arguments.python) as process:
        if not arguments.user_model:
            raise DataMissing("tau2-bench needs a simulated user: pass --user-model MODEL@BASE_URL (or `scripted`)")
        user = load_user(arguments.user_model, arguments.seed, threads)
        split = None if arguments.split == "all" else arguments.split
        domains = {name: process.domain(name, split) for name in names}
        for name, domain in domains.items():
            if domain.left_out:
                print(f"note: {domain.left_out} tasks of {name} start in a recorded conversation and are left out")
        tasks = {task.id: task for domain in domains.values() for task in domain.tasks[: arguments.limit]}
        summary = run_suite(
            arguments,
            SUITE,
            case_ids=list(tasks),
            play=_player(arguments, tasks, domains, user, process, threads),
            metrics=METRICS,
            groups={"by_domain": "domain"},
            data_files=[folder / "data" / "tau2" / "domains" / name / "tasks.json" for name in names],
            settings={
                "user_model": arguments.user_model,
                "user_model_content": user_identity(arguments.user_model),
                "domains": names,
                "split": arguments.split,
                "max_turns": arguments.max_turns,
                "seen_sha256": {name: _seen_sha256(folder, name, domain) for name, domain in domains.items()},
            },
            shown=["pass^1", "db_match", "unjudged", "failed_calls"],
            policy=policy,
            system_messages=True,
            extra=summary_keys(names, arguments.trials, arguments.seed),
        )
    if arguments.trials > 1:
        print(table_text(summary["pass_hat_k"], [f"pass^{k}" for k in range(1, arguments.trials + 1)]))
    return summary


def _player(
    arguments: argparse.Namespace,
    tasks: dict[str, Tau2Task],
    domains: dict[str, Tau2Domain],
    user: Tau2User,
    process: Tau2Process,
    threads: int,
) -> Any:
    """Games are made ahead in threads, because the user opens each of them."""

    def play(policy: Policy, plays: Sequence[Play], on_row: OnRow) -> None:
        with ThreadPoolExecutor(max_workers=threads) as pool:
            made: dict[Play, Future[Tau2Game]] = {
                (case, trial): pool.submit(Tau2Game, tasks[case], domains[tasks[case].domain], trial, user, process)
                for case, trial in plays
            }
            try:
                player = game_player(
                    arguments,
                    lambda case, trial: made.pop((case, trial)).result(),
                    max_turns=arguments.max_turns,
                    threads=threads,
                )
                player(policy, plays, on_row)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    return play


def _seen_sha256(folder: Path, name: str, domain: Tau2Domain) -> str:
    """One hash of what decides a score besides the tasks: prompts, tools, and the domain's database."""
    place = folder / "data" / "tau2" / "domains" / name
    databases = sorted([*place.glob("*db.json"), *place.glob("*db.toml")])
    seen = [domain.system, domain.tools, [file_sha256(path) for path in databases]]
    return hashlib.sha256(json_text(seen).encode()).hexdigest()


def main() -> int:
    run(parser().parse_args())
    return 0


if __name__ == "__main__":
    run_main(main)
