"""All suites with one loaded model: what can be measured here is measured, the rest is named with its reason.

Inputs: a model (or any policy), the suites' data where they are. Outputs: a folder for each suite in --out (see eval/suites/suite.py), and
`suites.json`: the summary table, what was skipped and why. A second call goes on where the first was; it loads no model if nothing is left.

Suites whose data are missing are skipped; a suite that cannot be measured with this policy (the oracle where no gold is known)
fails without the others, and the exit code is then 2. --with hands flags to one suite, --data and --limit among them.

Examples:
    python -m eval.run --model outputs/cpu/start --suites all --out outputs/cpu/suites
    python -m eval.run --model vllm:Qwen/Qwen3-8B --thinking --max-new-tokens 8192 --suites rotbench,bfcl --out outputs/qwen3 \\
        --with 'bfcl: --categories multi_turn' --with 'rotbench: --data ~/RoTBench/Data/First_Turn'

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
    """Where a suite is, what the table shows below its HEADLINES, and flags that it gets unless --with gives others."""

    module: str
    parts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


SUITES = {
    "environments": Suite("eval.environments", flags=("--data", "data/ftrl/test.jsonl")),
    "toolhop": Suite("eval.toolhop"),
    "tau_bench": Suite("eval.tau_bench"),
    "rotbench": Suite("eval.rotbench"),
    "general": Suite("eval.general"),
    "bfcl": Suite(
        "eval.bfcl",
        ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context"),
    ),
}
SHARED = ("limit", "trials", *(name for name in POLICY_SETTINGS if name != "thinking"), "in_flight")


def chosen_suites(text: str) -> list[str]:
    """The suites of a comma-separated list, or all, in the table's order. Raises BadInput."""
    names = list(SUITES) if text == "all" else text.split(",")
    for name in names:
        if name not in SUITES:
            raise BadInput(f"--suites: unknown {name!r}; expected all, or some of {', '.join(SUITES)}")
    return [name for name in SUITES if name in names]


def extra_flags(given: Sequence[str], suites: Sequence[str]) -> dict[str, list[str]]:
    """`{suite: its flags}` of the --with options, each `SUITE: FLAGS`. Raises BadInput."""
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
    """A suite's own arguments: the shared ones, then the suite's defaults of this table, then `flags`."""
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
    """One row for each headline metric of a suite's summary, then for its parts; `partial` where only some groups were measured."""
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
    """The table at the end: each headline metric in percent with its interval, n and the suite's seconds."""
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
    """Run the suites one after the other; returns the exit code. Raises BadInput before anything runs."""
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
    print(f"\n{table_text(rows)}" if rows else "\nno suite was measured")
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
        "--model", "--policy", required=True, help="a model folder, or any policy (eval.environments --help)"
    )
    parser.add_argument("--suites", default="all", help=f"all, or a comma-separated list of {', '.join(SUITES)}")
    parser.add_argument("--out", required=True, help="result folder; each suite gets a folder in it")
    parser.add_argument(
        "--with", dest="extra", action="append", default=[], metavar="'SUITE: FLAGS'", help="flags of one suite"
    )
    for flag in SHARED:
        kind = {"temperature": float, "dtype": str}.get(flag, int)
        parser.add_argument(f"--{flag.replace('_', '-')}", type=kind, default=None, help="default: the suite's own")
    parser.add_argument("--thinking", action="store_true")
    parser.add_argument("--skip-missing", action="store_true", help="exit with 0 also where no suite has its data here")
    return run_suites(parser.parse_args())


def command() -> None:
    """The console script."""
    run_main(main)


if __name__ == "__main__":
    command()
