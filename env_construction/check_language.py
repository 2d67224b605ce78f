"""Check questions and tool documents against a list of language rules, and report how often each rule is broken.

In: environments in the authors' format or ours (JSONL or Parquet).
Out: a table on stdout for questions, sub-questions, and descriptions of tools and parameters. It has the number of
texts, of texts with a finding, and each rule's findings with examples. With --out, all findings as JSON lines. The exit
code is 1 if the share of questions with a finding exceeds --most.

Example:
    python -m env_construction.check_language outputs/demo/environments/train.jsonl --out outputs/demo/language.jsonl
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import Environment, read_environments
from env_construction.rules.language_rules import language_findings

EXAMPLES = 3


def texts_of(environment: Environment) -> Iterator[tuple[str, str]]:
    """(kind, text): the question without instruction and constraints, the sub-questions, what the documents say."""
    yield "question", environment.question_alone.rsplit("Question: ", 1)[-1].strip()
    for item in environment.sub_questions:
        yield "sub-question", item.question
    for tool in environment.tools:
        yield "description", tool.description
        for text in _parameter_texts(tool.parameters):
            yield "parameter", text


def _parameter_texts(schema: dict[str, Any]) -> Iterator[str]:
    for inner in schema.get("properties", {}).values():
        if isinstance(inner, dict):
            if isinstance(inner.get("description"), str):
                yield inner["description"]
            yield from _parameter_texts(inner)


def read_texts(texts: Iterable[tuple[str, str]]) -> tuple[Counter[str], list[dict[str, str]]]:
    """How many texts of each kind there are, and all findings: kind, rule, place, text."""
    counted: Counter[str] = Counter()
    findings = []
    for kind, text in texts:
        counted[kind] += 1
        for rule, place in language_findings(text, "question" in kind):
            findings.append({"kind": kind, "rule": rule, "place": place, "text": text})
    return counted, findings


def main() -> int:
    parser = ScriptParser(__doc__, "python -m env_construction.check_language")
    parser.add_argument("environments", type=Path, help="environments, JSONL or Parquet")
    parser.add_argument("--limit", type=int, help="read so many environments at most (default: all)")
    parser.add_argument("--most", type=float, default=0.01, help="share of questions with a finding (default: 0.01)")
    parser.add_argument("--out", type=Path, help="write all findings to this file (JSONL)")
    arguments = parser.parse_args()
    environments = islice(read_environments(arguments.environments), arguments.limit)
    progress = tqdm(environments, desc="read", unit=" environments")
    counted, findings = read_texts(item for environment in progress for item in texts_of(environment))
    faulty: dict[str, set[str]] = defaultdict(set)
    for finding in findings:
        faulty[finding["kind"]].add(finding["text"])
    print(f"{'texts':<14}{'n':>9}{'with a finding':>16}{'share':>9}")
    for kind, count in counted.items():
        print(f"{kind:<14}{count:>9,}{len(faulty[kind]):>16,}{len(faulty[kind]) / count:>9.4f}")
    for (kind, rule), count in sorted(Counter((item["kind"], item["rule"]) for item in findings).items()):
        places = dict.fromkeys(item["place"] for item in findings if (item["kind"], item["rule"]) == (kind, rule))
        print(f"{kind}, {rule}: {count}; for example {' | '.join(islice(places, EXAMPLES))}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in findings))
    share = len(faulty["question"]) / max(1, counted["question"])
    print(f"{len(findings)} findings; {share:.2%} of {counted['question']:,} questions have one")
    return 1 if share > arguments.most else 0


if __name__ == "__main__":
    run_main(main)
