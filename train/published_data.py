"""Convert the authors' published environments to training environments: read, check, add ids, write JSONL.

Inputs: --data-file, the authors' JSONL (2,215 training environments) or a Parquet file with the same columns, the form
of the copies in later papers. Default: data/ftrl/train.jsonl, which `python -m eval.download environments` downloads.
Outputs:
- --out: JSONL, the unchanged records with `id` and `scenario` added.
- `<out's stem>.summary.json`: the count by scenario, compared with 2,215, and the violations of each rule of
  `env_construction/validate.py`. A record that violates a rule is kept unchanged, because a reproduction trains on the
  authors' data.

A record of another split and a duplicate (same question and tools) are skipped and counted. Ids depend on the content
only: the same record has the same id in any file.

Example:
    python -m train.published_data --data-file data/ftrl/train.jsonl --out outputs/published/train.jsonl
    python -m train.collect_trajectories --environments outputs/published/train.jsonl --policy vllm:Qwen/Qwen3-8B ...

Source: paper/README.md, "Data format" and "The published data, counted".
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, file_sha256, run_main
from env_construction.environment.record_files import read_records
from env_construction.environment.schema import Environment, write_environments
from env_construction.validate import judge

DOWNLOADED = Path("data/ftrl/train.jsonl")
PUBLISHED = {"train": 2215, "test": 200}
# Every published record violates this rule: the authors' format has no gold plan.
EXPECTED_RULE = "gold_plan_absent"


def published_environments(path: Path, split: str) -> tuple[list[Environment], dict[str, int]]:
    """The environments of `split` in file order, and the number of skipped records by reason.

    Raises BadInput with file, line and key for a record that is not an environment in its initial state.
    """
    environments: list[Environment] = []
    left_out = {"other split": 0, "repeated": 0}
    seen: set[str] = set()
    for where, record in tqdm(read_records(path), desc="read", unit="env", disable=None):
        environment = Environment.from_record(record, where)
        if environment.messages and environment.messages[-1].get("role") != "user":
            raise BadInput(f"{where}: key 'messages': expected only a question, but the last message is not the user's")
        if environment.solve_rate != 0.0:
            raise BadInput(f"{where}: key 'solve_rate': expected 0.0 in the initial state of an environment")
        if environment.split not in ("", split):
            left_out["other split"] += 1
        elif environment.id in seen:
            left_out["repeated"] += 1
        else:
            seen.add(environment.id)
            environments.append(environment)
    return environments, left_out


def main() -> int:
    parser = ScriptParser(__doc__, "python -m train.published_data")
    parser.add_argument("--data-file", type=Path, default=None, help=f"JSONL or Parquet (default: {DOWNLOADED})")
    parser.add_argument("--split", choices=sorted(PUBLISHED), default="train")
    parser.add_argument("--out", type=Path, required=True, help="JSONL to write")
    arguments = parser.parse_args()
    source = arguments.data_file or DOWNLOADED.with_stem(arguments.split)
    if not source.is_file():
        raise BadInput(
            f"{source}: no such file; run `python -m eval.download environments` to download the authors' files to "
            f"{DOWNLOADED.parent}, or pass a copy with --data-file"
        )
    environments, left_out = published_environments(source, arguments.split)
    if not environments:
        raise BadInput(
            f"{source}: no environment of split {arguments.split!r} among its {sum(left_out.values())} records"
        )
    write_environments(arguments.out, environments)
    scenarios = Counter(environment.scenario or "unknown" for environment in environments)
    broken: Counter[str] = Counter()
    judged = tqdm(judge(arguments.out), desc="check", total=len(environments), unit="env", disable=None)
    for _, _, findings in judged:
        broken.update({finding.rule for finding in findings} - {EXPECTED_RULE})
    expected = PUBLISHED[arguments.split]
    summary = {
        "data_file": str(source),
        "data_sha256": file_sha256(source),
        "split": arguments.split,
        "environments": len(environments),
        "published": expected,
        "left_out": left_out,
        "scenarios": dict(sorted(scenarios.items())),
        "without_answer": sum(environment.answer is None for environment in environments),
        "sub_questions": sum(environment.unsolved_count for environment in environments),
        "rules_broken": dict(sorted(broken.items())),
    }
    summary_path = arguments.out.with_name(arguments.out.stem + ".summary.json")
    summary_path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    listed = ", ".join(f"{count} {name}" for name, count in sorted(scenarios.items()))
    print(
        f"wrote {arguments.out}: {len(environments)} of the {expected} published {arguments.split} environments "
        f"({listed})"
    )
    if len(environments) != expected:
        print(f"note: results are not comparable with the paper's, which used all {expected} environments")
    for reason, count in left_out.items():
        if count:
            print(f"skipped: {count} ({reason})")
    for rule, count in sorted(broken.items()):
        print(
            f"kept, but breaks a rule: {count} {rule} (python -m env_construction.validate {arguments.out} shows them)"
        )
    return 0


if __name__ == "__main__":
    run_main(main)
