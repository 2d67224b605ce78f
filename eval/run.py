"""Run all evaluation suites with one loaded model; skip suites whose data are missing and say why.

Inputs: a model (or any policy) and the data of the suites.
Outputs: one folder per suite in --out (see eval/suites/suite.py), and `suites.json` with the summary table and the
reason for each skipped suite. A second call resumes the first. It loads no model if nothing is left to run.

A suite whose data are missing is skipped. A suite that cannot run with this policy (for example the oracle, if the gold
answer is unknown) fails without stopping the others; the exit code is then 2. --with passes flags to one suite,
including --data and --limit.

Examples:
    python -m eval.run --model outputs/cpu/start --suites all --out outputs/cpu/suites
    python -m eval.run --model vllm:Qwen/Qwen3-8B --thinking --max-new-tokens 8192 --suites rotbench,bfcl \\
        --out outputs/qwen3 --with 'bfcl: --categories multi_turn' --with 'rotbench: --data ~/RoTBench/Data/First_Turn'

Source: paper/README.md, "Evaluation".
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main
from eval.statistics.estimates import Estimate, percent_text
from eval.suites.suite import POLICY_SETTINGS, DataMissing, one_policy
from train.stages.faults import lost_line


@dataclass(frozen=True)
class Suite:
    """A suite: its module, the metrics shown below its HEADLINES, and default flags that --with can override."""

    module: str
    parts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


SUITES = {
    "environments": Suite("eval.environments", flags=("--data", "data/ftrl/test.jsonl")),
    "toolhop": Suite("eval.toolhop"),
    "tau_bench": Suite("eval.tau_bench"),
    "tau2": Suite("eval.tau2"),
    "cctu": Suite("eval.cctu"),
    "rotbench": Suite("eval.rotbench"),
    "general": Suite("eval.general"),
    "bfcl": Suite(
        "eval.bfcl",
        ("memory", "multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context"),
    ),
}
SHARED = ("limit", "trials", *(name for name in POLICY_SETTINGS if name != "thinking"), "in_flight")


def chosen_suites(text: str) -> list[str]:
    """The suites of a comma-separated list, or all of them, in the table's order. Raises BadInput."""
    names = list(SUITES) if text == "all" else text.split(",")
    for name in names:
        if name not in SUITES:
            raise BadInput(f"--suites: unknown {name!r}; expected all, or some of {', '.join(SUITES)}")
    return [name for name in SUITES if name in names]


def extra_flags(given: Sequence[str], suites: Sequence[str]) -> dict[str, list[str]]:
    """`{suite: flags}` from the --with options, each of the form `SUITE: FLAGS`. Raises BadInput."""
    flags: dict[str, list[str]] = {}
    for text in given:
        name, colon, rest = text.partition(":")
        if not colon or name.strip() not in suites:
            raise BadInput(f"--with {text!r}: expected 'SUITE: FLAGS' with one of {', '.join(suites)}")
        try:
            flags.setdefault(name.strip(), []).extend(os.path.expanduser(word) for word in shlex.split(rest))
        except ValueError as error:
            raise BadInput(f"--with {text!r}: {error}") from None
    return flags


def suite_arguments(name: str, arguments: argparse.Namespace, flags: Sequence[str]) -> argparse.Namespace:
    """The arguments of one suite: the shared flags, then the suite's defaults, then `flags`."""
    words = ["--policy", arguments.model, "--out", str(Path(arguments.out) / name), *SUITES[name].flags]
    for flag in SHARED:
        value = getattr(arguments, flag)
        if value is not None:
            words += [f"--{flag.replace('_', '-')}", str(value)]
    if arguments.thinking:
        words.append("--thinking")
    found: argparse.Namespace = importlib.import_module(SUITES[name].module).parser().parse_args([*words, *flags])
    return found


def table_rows(name: str, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per headline metric of a suite, then per part; `partial` marks a mean over only some groups."""
    rows = []
    for metric in (*importlib.import_module(SUITES[name].module).HEADLINES, *SUITES[name].parts):
        partial = summary.get("partial", {}).get(metric)
        found = partial or summary["metrics"].get(metric)
        if found is not None and found["value"] is not None:
            row = {"suite": name, "metric": metric, **{key: found[key] for key in ("value", "low", "high", "n")}}
            row |= {"seconds": summary["seconds"], "faults": summary["faults"]}
            rows.append(row | ({"partial": {key: partial[key] for key in ("groups", "of")}} if partial else {}))
    return rows


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The final table: each headline metric in percent with its interval, n, faults and seconds."""
    lines = [f"{'suite':<14}{'metric':<26}{'n':>6}  {'% [95% interval]':<24}{'faults':>6}{'seconds':>9}"]
    notes = []
    for row in rows:
        metric, cell = row["metric"], percent_text(Estimate(row["value"], row["low"], row["high"], row["n"]))
        if partial := row.get("partial"):
            notes.append(f"* partial: {row['suite']} {metric} is over {_some(partial['groups'], partial['of'])}")
            metric += " *"
        lines.append(f"{row['suite']:<14}{metric:<26}{row['n']:>6}  {cell:<24}{row['faults']:>6}{row['seconds']:>9.1f}")
    return "\n".join([*lines, *notes])


def _some(groups: Sequence[str], of: Sequence[str]) -> str:
    missing = [name for name in of if name not in groups]
    return f"{len(groups)} of {len(of)}: {', '.join(groups)}; {', '.join(missing)} not measured"


def run_suites(arguments: argparse.Namespace) -> int:
    """Run the suites in sequence; returns the exit code. Raises BadInput before any suite starts."""
    names = chosen_suites(arguments.suites)
    flags = extra_flags(arguments.extra, names)
    prepared = {name: suite_arguments(name, arguments, flags.get(name, [])) for name in names}
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    lost: dict[str, str] = {}
    begun = time.monotonic()
    with one_policy():
        for place, name in enumerate(names, start=1):
            print(f"[{place}/{len(names)}] {name}", flush=True)
            prepared[name].label = f"[{place}/{len(names)}] {name} "
            try:
                summary = importlib.import_module(SUITES[name].module).run(prepared[name])
            except DataMissing as error:
                skipped[name] = str(error)
                print(f"skipped: {error}")
            except BadInput as error:
                failed[name] = str(error)
                print(f"failed: {error}")
            else:
                rows += table_rows(name, summary)
                if text := summary.get("faults_text"):
                    lost[name] = text
    path = Path(arguments.out) / "suites.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"model": arguments.model, "table": rows, "skipped": skipped, "failed": failed, "faults": lost}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{table_text(rows)}" if rows else "\nno suite ran")
    for name, text in lost.items():
        print(f"{name}: {lost_line(text, Path(arguments.out) / name)}", end="")
    for word, found in (("skipped", skipped), ("failed", failed)):
        for name, reason in found.items():
            print(f"{word} {name}: {reason}")
    print(f"wrote {path} ({time.monotonic() - begun:.0f} s)")
    return 2 if failed or not (rows or arguments.skip_missing) else 0


def main() -> int:
    parser = ScriptParser(__doc__, "python -m eval.run")
    parser.add_argument(
        "--model", "--policy", required=True, help="a model folder, or any policy (see eval.environments --help)"
    )
    parser.add_argument("--suites", default="all", help=f"all, or a comma-separated list of {', '.join(SUITES)}")
    parser.add_argument("--out", required=True, help="result folder; each suite writes to its own subfolder")
    parser.add_argument(
        "--with", dest="extra", action="append", default=[], metavar="'SUITE: FLAGS'", help="extra flags for one suite"
    )
    for flag in SHARED:
        kind = {"temperature": float, "dtype": str}.get(flag, int)
        parser.add_argument(f"--{flag.replace('_', '-')}", type=kind, default=None, help="default: the suite's own")
    parser.add_argument("--thinking", action="store_true")
    parser.add_argument("--skip-missing", action="store_true", help="exit with 0 even if no suite has its data")
    return run_suites(parser.parse_args())


def command() -> None:
    """The console script."""
    run_main(main)


if __name__ == "__main__":
    command()
