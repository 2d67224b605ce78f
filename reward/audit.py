"""Reward-hacking report: what do attacks on the reward earn under `published` and under `strict` matching?

In:  --environments F.jsonl  environments in the authors' format or ours (with a gold plan: also the honest turn)
Out: a table on the screen with one row per attack (reward/attacks.py; for stateful environments also
     reward/state_attacks.py). For both matchings, a row shows the share of
     environments where the attack earns reward, the mean reward, and the mean number of sub-questions solved. A share
     has its 95% Wilson interval, a mean has +- 1.96 standard errors.
     `--out A.jsonl` writes one line per environment and attack: {"id", "attack", "uses_gold",
     "published": {reward, kind, p, q, t, fault}, "strict": the same}. `--responses-out` writes the turns themselves.

Most attacks are a first turn. `paste_sub_answers` and the attacks named `..._when_solved` are a last turn, after every
sub-question is solved; any text then earns 0.5 under both matchings. The columns show each attack before (`published`)
and after (`strict`) the hardening in `env_construction/environment/matching.py`.

An environment without a gold plan (the published data) has no honest turn. Attacks that repeat or hide solving calls
then use the calls of `answer_as_keyword`, which solve there. If the final answer is null, attacks on it are left out.

Example:
    python -m reward.audit --environments ../shared/data/ftrl_test_sample.jsonl --out audit.jsonl
Source: paper/README.md, defects 4 to 7 and 6b of the published code.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main, write_jsonl
from env_construction.environment.matching import MATCHES
from env_construction.environment.schema import Environment
from env_construction.measures.intervals import mean_and_half_width, wilson
from env_construction.sandbox.tool_sandbox import ToolSandbox
from reward.attacks import ATTACKS
from reward.rewards import REWARDS
from reward.score import open_sandbox, read_gold
from reward.scoring import TurnScore, score_turns
from reward.state_attacks import STATE_ATTACKS, state_start_of

_ALL = ATTACKS | STATE_ATTACKS


def applies(attack: str, environment: Environment) -> bool:
    """Whether an attack makes sense in an environment."""
    if attack == "gold_plan":
        return bool(environment.gold_plan)
    if attack in STATE_ATTACKS and (environment.state is None or not environment.gold_plan):
        return False
    if attack == "undo_changes":
        return bool(_ALL[attack][0](environment))
    return environment.answer is not None or not attack.startswith("answer_") or attack == "answer_as_keyword"


def audit(environments: Sequence[Environment], variant: str, sandbox: ToolSandbox) -> list[dict[str, Any]]:
    """Play every attack in every environment under both matchings: one row per environment and attack."""
    rows: list[dict[str, Any]] = []
    for environment in tqdm(environments, unit="environment", desc="audit"):
        names = [name for name in _ALL if applies(name, environment)]
        starts = [state_start_of(name, environment) for name in names]
        turns = [(start, _ALL[name][0](start)) for name, start in zip(names, starts, strict=True)]
        scores = {match: score_turns(turns, variant=variant, match=match, sandbox=sandbox) for match in MATCHES}
        for index, name in enumerate(names):
            state = scores["strict"][index].state
            if name == "undo_changes" and state is not None and state.is_right():
                continue  # the tools refused to take it back, so this was the gold plan
            row: dict[str, Any] = {"id": environment.id, "attack": name, "uses_gold": _ALL[name][1]}
            row.update({match: _parts(scores[match][index]) for match in MATCHES})
            rows.append(row)
    return rows


def _parts(score: TurnScore) -> dict[str, Any]:
    return {
        "reward": score.reward,
        "kind": score.kind,
        "p": score.p,
        "q": score.q,
        "t": score.t,
        "fault": score.fault,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The report: attack, n, and for each matching the share that earns, the mean reward and the mean of q."""
    head = f"{'attack':<24}{'gold':<6}{'n':>5}"
    for match in MATCHES:
        head += f"  |  {match + ': earns [95%]':<26}{'reward':<18}{'solved':<14}"
    lines = [head, "-" * len(head)]
    for name, (_, uses_gold) in _ALL.items():
        chosen = [row for row in rows if row["attack"] == name]
        if not chosen:
            continue
        line = f"{name:<24}{'yes' if uses_gold else 'no':<6}{len(chosen):>5}"
        for match in MATCHES:
            scores = [row[match] for row in chosen]
            low, high = wilson(sum(score["reward"] > 0 for score in scores), len(scores))
            share = sum(score["reward"] > 0 for score in scores) / len(scores)
            earns = f"{share:6.1%} [{low:.1%}, {high:.1%}]"
            reward = mean_interval([score["reward"] for score in scores])
            solved = mean_interval([score["q"] for score in scores])
            line += f"  |  {earns:<26}{reward:<18}{solved:<14}"
        lines.append(line)
    faults = sum(row[match]["fault"] for row in rows for match in MATCHES)
    lines.append(f"sandbox faults: {faults} of {len(MATCHES) * len(rows)} turns")
    return "\n".join(lines)


def mean_interval(values: Sequence[float]) -> str:
    """The mean with +- 1.96 standard errors, or without an interval for a single value."""
    mean, half = mean_and_half_width(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    return f"{mean:.3f} +- {half:.3f}"


def main() -> int:
    parser = ScriptParser(__doc__, "python -m reward.audit")
    parser.add_argument("--environments", type=Path, required=True, metavar="F.jsonl")
    parser.add_argument("--variant", choices=list(REWARDS), default="solve_f1", help="row of the reward table")
    parser.add_argument("--out", type=Path, metavar="A.jsonl", help="one line per environment and attack")
    parser.add_argument(
        "--responses-out",
        type=Path,
        metavar="R.jsonl",
        help="the attacks' turns, in the format that reward.score reads",
    )
    parser.add_argument("--limit", type=int, default=0, help="only the first N environments (default: all)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="sandbox processes (default: all cores)"
    )
    parser.add_argument("--require-isolation", action="store_true", help="refuse to run if a sandbox layer is missing")
    arguments = parser.parse_args()
    if arguments.limit < 0:
        raise BadInput(f"--limit {arguments.limit}: expected 0 (all) or more")
    environments = list(read_gold(arguments.environments, "published").values())
    environments = environments[: arguments.limit or None]
    with open_sandbox(arguments.workers, arguments.require_isolation) as sandbox:
        rows = audit(environments, arguments.variant, sandbox)
    print(table(rows))
    written = [f"{len(rows)} attacks on {len(environments)} environments, {arguments.variant}"]
    if arguments.out:
        write_jsonl(arguments.out, rows)
        written.append(f"wrote {arguments.out}")
    if arguments.responses_out:
        turns = [
            {"id": environment.id, "attack": name, "response": _ALL[name][0](state_start_of(name, environment))}
            for environment in environments
            for name in _ALL
            if applies(name, environment)
        ]
        write_jsonl(arguments.responses_out, turns)
        written.append(f"wrote {arguments.responses_out}")
    print("; ".join(written))
    return 0


if __name__ == "__main__":
    run_main(main)
