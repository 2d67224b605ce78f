"""tau-bench: an agent serves a simulated customer by the rules of a domain; its calls change a database.

Inputs: a policy, a simulated user (--user-model, see eval/tau/simulated_user.py), a folder in the authors' layout (see
eval/tau/domains.py).
Outputs, in --out: one row per task and trial; `summary.json` with pass^k for k up to the number of trials, by domain
and as the *unweighted* mean of the domains.

An episode follows tau-bench's own rules:
- The user opens. Each turn has one call: the first; further calls are dropped and counted. A turn without a call is
  sent to the user.
- It ends when the user says ###STOP###, when the agent hands over (`transfer_to_human_agents`), or after 30 turns
  (unsolved).
- The reward is 1 if the final database equals the one after the recorded actions, and every required output appears in
  a message from the agent to the user (lower case, commas removed from the message). Otherwise it is 0.

The authors' code differs (defect 8). It looks for outputs only in messages that carry a call, and a misspelled name
keeps a hand-over from ending an episode. `pass^1_published` is their check on the same transcript. After a hand-over,
their episode would continue. Their code also shows the agent's thinking to the user.

The authors call these tasks outdated and recommend tau2-bench (eval/tau2.py).

Calls run in the sandbox: each episode has its own process, which receives the database once. The gold actions never
enter that process; they are replayed in a separate session. The oracle plays them, says the outputs, and must score
100%.

Example:
    python -m eval.download tau_bench
    python -m eval.tau_bench --policy hf:PATH --user-model gpt-4o-2024-08-06@https://api.openai.com/v1 --trials 4 \\
        --out outputs/mine/tau_bench

Source: paper/README.md, "Evaluation", defect 8; tau-bench (arXiv 2406.12045).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import file_sha256, run_main
from env_construction.environment.matching import MATCHES
from env_construction.sandbox.tool_sandbox import ToolSandbox
from eval.download import DATA, published_file, select
from eval.suites.games import GameFault, OnRow, Play, game_player
from eval.suites.pass_hat_k import pass_hat_k_tables, resolvable_difference
from eval.suites.results import GroupedMean, Metric, scored, table_text
from eval.suites.suite import DataMissing, run_suite, suite_parser
from eval.tau.domains import DOMAINS, Domain, Task, check_actions, read_domain, read_tasks
from eval.tau.game import TauGame
from eval.tau.simulated_user import GREETING, SimulatedUser, UserLeft, load_user, read_prompt, user_identity
from train.policies.interface import Policy

SUITE = "tau_bench"
MAX_TURNS = 30
DEFAULT_DATA = str(DATA / "ftrl")
IN_FLIGHT = 32
COLUMNS = ("db_match", "outputs_said", "handed_over", "turns", "calls", "failed_calls", "dropped_calls")
HEADLINES = ("pass^1",)
METRICS: tuple[Metric, ...] = (
    GroupedMean("pass^1", "reward", "domain", of=DOMAINS),
    GroupedMean("pass^1_published", "reward_published", "domain", of=DOMAINS),
    *(GroupedMean(column, column, "domain", of=DOMAINS) for column in (*COLUMNS, "completion_tokens")),
)


class _Openings:
    """Requests the users' first lines ahead of their games, so that no game waits for another."""

    def __init__(
        self, pool: ThreadPoolExecutor, user: SimulatedUser, tasks: dict[str, Task], plays: Sequence[Play]
    ) -> None:
        self._asked: dict[Play, Future[str]] = {
            (case, trial): pool.submit(user.reply, case, trial, tasks[case].instruction, [GREETING])
            for case, trial in plays
        }

    def take(self, case_id: str, trial: int) -> str:
        try:
            return self._asked.pop((case_id, trial)).result()
        except UserLeft:
            raise GameFault("the instruction is too long for the simulated user's model") from None


def summary_keys(domains: Sequence[str], trials: int, seed: int) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """pass^k for every k up to the number of trials, and the smallest difference in pass^1 that can be resolved."""

    def keys(rows: list[dict[str, Any]]) -> dict[str, Any]:
        counted = scored(rows)
        return {
            "pass_hat_k": pass_hat_k_tables(counted, domains, trials, seed),
            "smallest_resolvable_difference": {"pass^1": resolvable_difference(counted, domains)},
            "mean": f"unweighted mean of the domains {', '.join(domains)}",
        }

    return keys


def parser() -> argparse.ArgumentParser:
    made = suite_parser(__doc__, "python -m eval.tau_bench", data=DEFAULT_DATA)
    made.add_argument("--user-model", default=None, help="MODEL@BASE_URL, replay:FILE or scripted")
    made.add_argument(
        "--user-prompt", default=None, help="file with a different prompt for the user; must contain {instruction}"
    )
    made.add_argument("--user-threads", type=int, default=32, help="number of users and databases active at once")
    made.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    made.add_argument("--max-turns", type=int, default=MAX_TURNS)
    made.add_argument("--match", choices=MATCHES, default="published", help="how turns are parsed")
    made.set_defaults(in_flight=IN_FLIGHT)  # each active case holds its database twice: about 70 MB
    return made


def load_data(folder: Path, names: Sequence[str], limit: int | None) -> tuple[dict[str, Task], dict[str, Domain]]:
    """Tasks by id, and domains by name. Raises DataMissing or BadInput."""
    if str(folder) == DEFAULT_DATA:
        for file in select([SUITE]):
            published_file(file.name)
    path = folder / "tau-bench.jsonl"
    if not path.is_file():
        raise DataMissing(f"{path}: no such file; `python -m eval.download tau_bench` fetches tasks and domains")
    domains = {name: read_domain(folder / "tau-bench", name) for name in names}
    tasks = [task for task in read_tasks(path, limit) if task.domain in domains]
    check_actions(tasks, domains)
    return {task.id: task for task in tasks}, domains


def run(arguments: argparse.Namespace, policy: Policy | None = None) -> dict[str, Any]:
    """Play what is left and return the summary. Raises DataMissing or BadInput."""
    names = [name for name in DOMAINS if name in arguments.domains]
    folder = Path(arguments.data)
    tasks, domains = load_data(folder, names, arguments.limit)
    if not arguments.user_model:
        raise DataMissing("tau-bench needs a simulated user: pass --user-model MODEL@BASE_URL (or `scripted` to test)")
    prompt = read_prompt(arguments.user_prompt)
    user = load_user(
        arguments.user_model, seed=arguments.seed, prompt=prompt, concurrency=max(1, arguments.user_threads)
    )
    files = [file for domain in domains.values() for file in domain.files]
    largest = max(len(json.dumps(domain.database)) for domain in domains.values())

    def play(policy: Policy, plays: Sequence[Play], on_row: OnRow) -> None:
        pool = ThreadPoolExecutor(max_workers=max(1, arguments.user_threads))
        # a complete database is one output, and its transfer can take seconds on a busy machine
        with ToolSandbox(
            workers=1, timeout_s=60.0, cpu_s=10.0, memory_mb=1024, output_bytes=4 * largest + (1 << 20)
        ) as sandbox:
            try:
                openings = _Openings(pool, user, tasks, plays)

                def make_game(case_id: str, trial: int) -> TauGame:
                    task = tasks[case_id]
                    opening = openings.take(case_id, trial)
                    return TauGame(task, domains[task.domain], trial, user, opening, sandbox, arguments.match)

                threads = max(1, arguments.user_threads)
                player = game_player(arguments, make_game, max_turns=arguments.max_turns, threads=threads)
                player(policy, plays, on_row)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    summary = run_suite(
        arguments,
        SUITE,
        case_ids=list(tasks),
        play=play,
        metrics=METRICS,
        groups={"by_domain": "domain"},
        data_files=[folder / "tau-bench.jsonl"],
        settings={
            "user_model": arguments.user_model,
            "user_model_content": user_identity(arguments.user_model),
            "user_prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
            "domains": names,
            "max_turns": arguments.max_turns,
            "match": arguments.match,
            "domain_files_sha256": {str(file.relative_to(folder)): file_sha256(file) for file in files},
        },
        shown=["pass^1", "pass^1_published", "db_match", "handed_over"],
        policy=policy,
        system_messages=True,
        extra=summary_keys(names, arguments.trials, arguments.seed),
    )
    if arguments.trials > 1:
        print(table_text(summary["pass_hat_k"], [f"pass^{k}" for k in range(1, arguments.trials + 1)]))
    return summary


def main() -> int:
    run(parser().parse_args())
    return 0


if __name__ == "__main__":
    run_main(main)
