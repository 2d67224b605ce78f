"""Tell two data sets apart: how far are our environments from the published ones, and what gives them away?

In:  environments (JSONL or Parquet), and with --published those to compare with.
Out: for questions, tool documents and code: the cross-validated accuracy of a classifier that sees a bag of words and
     a few counts (`measures/origin.py`; 0.5: it cannot tell), with its 95% interval, and the features that speak most
     for each side. --out writes the same as JSON.

Example:
    python -m env_construction.told_apart outputs/demo/environments/train.jsonl \\
        --published ../shared/data/ftrl_test_sample.jsonl
"""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main
from env_construction.environment.schema import read_environments
from env_construction.measures.origin import FEWEST, PARTS, tell_apart

MOST = 1000


def main() -> int:
    parser = ScriptParser(__doc__, "python -m env_construction.told_apart")
    parser.add_argument("file", type=Path, help="our environments, JSONL or Parquet")
    parser.add_argument("--published", type=Path, required=True, help="the environments to compare with")
    parser.add_argument("--out", type=Path, help="JSON with all numbers")
    arguments = parser.parse_args()
    sides = []
    for path in (arguments.file, arguments.published):
        sides.append(list(islice(read_environments(path, check_tools=False), MOST)))
        if len(sides[-1]) < FEWEST:
            raise BadInput(f"{path}: {len(sides[-1])} environments; a comparison needs at least {FEWEST}")
    ours, published = sides
    results = [tell_apart(ours, published, part) for part in tqdm(PARTS, desc="tell apart", disable=None)]
    for told in results:
        interval = f"[{told.low:.3f}, {told.high:.3f}]"
        print(f"{told.part:<10} told apart with accuracy {told.accuracy:.3f} {interval}, n = {told.n}")
        print(f"           ours:      {', '.join(told.first)}")
        print(f"           published: {', '.join(told.second)}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([asdict(told) for told in results], indent=1, ensure_ascii=False)
        arguments.out.write_text(text + "\n", encoding="utf-8")
        print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    run_main(main)
