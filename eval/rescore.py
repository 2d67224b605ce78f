"""Score stored episodes again with another match rule, parser, turn limit or reward. No model is needed.

Inputs: the result folder of any suite (`results.jsonl`, `configuration.json`, `summary.json`), its data, and the
changes as flags of the suite (`--match strict`, `--max-turns 10`). Outputs, in --out (default: FOLDER/rescored): the
suite's own files under the new rules, and `rescore.json`. That file holds each metric before and after with its paired
difference, and the cases whose scores changed. For environments it also holds the mean reward per episode under every
row of reward/rewards.py, stored and rescored, and the episodes whose rewards changed.

The stored raw text of each turn goes through the suite's own code again: parse, run the calls, score the outcome. A
simulated user repeats its recorded lines. No model is queried, so an episode cannot take a different path. If the new
rules find a call in the last stored turn, the episode ends there and is scored as it is (`goes_on` counts these). If
the new rules end an episode earlier, its remaining turns are ignored (`ends_earlier` counts these).

Environment data are found by the recorded hash, in `environments/` near the result folder. For other data, pass --data.

Example:
    python -m eval.rescore outputs/cpu/eval/grpo --match strict

Source: paper/README.md, defects 4-7 and 9: this script measures how far the published and the strict rules differ.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, file_sha256, json_text, read_jsonl, run_main
from eval.compare import compare, comparison_text, grouped_means, numeric_columns, paired_difference
from eval.run import SUITES
from eval.suites.protocol import protocol_differences, protocol_of
from eval.suites.results import read_rows, scored
from reward.rewards import REWARDS
from reward.state_scoring import HARM_REWARD
from train.policies.interface import Generation, PolicyRequest, ReplayPolicy

# configuration keys that are not flags of the suite's parser under the same name
NOT_FLAGS = frozenset({"policy", "policy_content", "data_sha256", "limit"})
SHOWN_CASES = 10
# a change in one of these columns counts as a changed score
UNCHANGED = frozenset({"seconds", "completion_tokens", "seed", "trial"})


class StoredEpisodes(ReplayPolicy):
    """Replays the rows of a results file with their token counts.

    An episode that needs a turn beyond its record ends there and is scored as it is.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._turns = {
            (str(row["id"]), int(row.get("trial", 0))): row.get("turn_scores") or [] for _, row in read_jsonl(path)
        }
        self.goes_on: set[tuple[str, int]] = set()
        self.heard: dict[tuple[str, int], int] = {}

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        generations = []
        for request, generation in zip(requests, super().generate(requests), strict=True):
            case = request.case_id, request.trial
            turns = self._turns.get(case)
            if turns is None or generation.too_long:
                generations.append(generation)
            elif request.turn >= len(turns):
                self.goes_on.add(case)
                generations.append(Generation("", tokens=0, prompt_tokens=0, truncated=False, too_long=True))
            else:
                self.heard[case] = request.turn + 1
                turn = turns[request.turn]
                tokens, read = (int(turn.get(key) or 0) for key in ("tokens", "prompt_tokens"))
                generations.append(Generation(generation.text, tokens, read, bool(turn.get("truncated"))))
        return generations

    @property
    def ends_earlier(self) -> set[tuple[str, int]]:
        """Episodes that ended before the end of their record."""
        return {case for case, turns in self._turns.items() if self.heard.get(case, 0) < len(turns)}


def find_data(folder: Path, hashes: Mapping[str, str]) -> Path | None:
    """The data file with these hashes (one name and its SHA-256) in an `environments` folder near `folder`.

    Returns None if there is no such file.
    """
    if len(hashes) != 1:
        return None
    [(name, wanted)] = hashes.items()
    for parent in folder.resolve().parents:
        for path in sorted(parent.glob(f"environments*/{name}")):
            if file_sha256(path) == wanted:
                return path
    return None


def suite_flags(suite: str, configuration: Mapping[str, Any], changes: Sequence[str]) -> argparse.Namespace:
    """The suite's arguments as recorded, then `changes`.

    A flag that the suite does not define ends the program with a usage error.
    """
    parser = importlib.import_module(SUITES[suite].module).parser()
    words: list[str] = []
    for action in parser._actions:
        value = configuration.get(action.dest)
        if action.dest in NOT_FLAGS or value is None or not action.option_strings:
            continue
        if isinstance(value, bool):
            words += [action.option_strings[0]] if value else []
        else:
            several = action.nargs in ("+", "*")
            values = (
                value
                if isinstance(value, list) and several
                else [",".join(value) if isinstance(value, list) else value]
            )
            words += [action.option_strings[0], *map(str, values)]
    found: argparse.Namespace = parser.parse_args([*words, *changes])
    return found


def changed_cases(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Episodes whose scores or failure changed: `{"id", "trial", "failure": [was, is], column: [was, is], ...}`."""
    stored = {(str(row["id"]), row.get("trial", 0)): row for row in before}
    columns = [name for name in numeric_columns(after) if name not in UNCHANGED]
    found = []
    for row in after:
        was = stored.get((str(row["id"]), row.get("trial", 0)))
        if was is None:
            continue
        differing = {
            name: [was.get(name), row.get(name)] for name in (*columns, "failure") if was.get(name) != row.get(name)
        }
        if differing:
            found.append({"id": row["id"], "trial": row.get("trial", 0), **differing})
    return found


def with_rewards(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Adds each episode's reward, the sum over its turns divided by n + 1, in one column per reward variant.

    See reward/episode_rewards.py.
    """
    return [
        {
            "id": row["id"],
            "trial": row.get("trial", 0),
            **{
                name: sum(
                    HARM_REWARD if t.get("harm") else reward(t["p"], t["q"], t["t"], t["kind"])
                    for t in row["turn_scores"]
                )
                / (row["sub_questions"] + 1)
                for name, reward in REWARDS.items()
            },
        }
        for row in rows
        if "sub_questions" in row and all({"p", "q", "t", "kind"} <= turn.keys() for turn in row["turn_scores"])
    ]


def rescore(folder: Path, out: Path, data: str | None, changes: Sequence[str]) -> dict[str, Any]:
    """Score the episodes of the folder again; returns the content of `rescore.json`. Raises BadInput."""
    results = folder / "results.jsonl"
    before = read_rows(results)
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        suite, configuration = summary["suite"], summary["configuration"]
        hashes = summary["data_sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"{folder}: expected the summary.json of a finished suite ({type(error).__name__}: {error})"
        ) from None
    if suite not in SUITES:
        raise BadInput(f"{folder}: suite {suite!r}: expected one of {', '.join(SUITES)}")
    if out.resolve() == folder.resolve():
        raise BadInput(f"--out {out}: this is the folder to rescore; choose another output folder")
    source = data or find_data(folder, hashes)
    if suite == "environments" and source is None:
        raise BadInput(f"{folder}: cannot find its data ({', '.join(hashes)}); pass the file with --data")
    if suite == "environments" and file_sha256(str(source)) not in hashes.values():
        raise BadInput(f"--data {source}: its SHA-256 is not that of the data behind {folder}; pass the original file")
    words = ["--policy", f"replay:{results}", "--out", str(out), *(["--data", str(source)] if source else []), *changes]
    if configuration.get("user_model") not in (None, "scripted"):
        words = ["--user-model", f"replay:{results}", *words]
    if configuration.get("limit") is not None:
        words = ["--limit", str(configuration["limit"]), *words]
    arguments = suite_flags(suite, configuration, words)
    stored = StoredEpisodes(results)
    importlib.import_module(SUITES[suite].module).run(arguments, policy=stored)
    after = read_rows(out)
    grouped = grouped_means(folder, out)
    headline = importlib.import_module(SUITES[suite].module).HEADLINES
    was, now = protocol_of(folder), protocol_of(out)
    found: dict[str, Any] = {
        "suite": suite,
        "stored": str(folder),
        "episodes": len(after),
        "protocol_differences": protocol_differences(was, now) if was and now else [],
        "goes_on": len(stored.goes_on),
        "ends_earlier": len(stored.ends_earlier) if stored.heard else None,
        "comparison": compare(before, after, None, arguments.seed, grouped, headline),
        "changed": changed_cases(scored(before), scored(after)),
    }
    if rewards := with_rewards(scored(before)):
        again = with_rewards(scored(after))
        found["rewards"] = {name: paired_difference(rewards, again, name, arguments.seed) for name in REWARDS}
        found["changed_rewards"] = changed_cases(rewards, again)
    return found


def rescored_text(found: Mapping[str, Any]) -> str:
    """A readable report: what changed, each metric (A stored, B rescored), the first changed cases."""
    changed = found["changed"]
    lines = [
        f"A: as stored; B: rescored with {'; '.join(found['protocol_differences']) or 'nothing changed'}",
        comparison_text(found["comparison"]),
    ]
    if found.get("rewards"):
        parts = [f"{name} {item['a']:.3f} -> {item['b']:.3f}" for name, item in found["rewards"].items() if item]
        lines.append(f"mean reward per episode: {', '.join(parts)}")
    lines.append(f"{len(changed)} of {found['episodes']} episodes are scored differently")
    for item in changed[:SHOWN_CASES]:
        parts = [f"{key} {was} -> {now}" for key, (was, now) in list(item.items())[2:]]
        lines.append(f"  {item['id']} (trial {item['trial']}): {', '.join(parts)}")
    if len(changed) > SHOWN_CASES:
        lines.append(f"  ... and {len(changed) - SHOWN_CASES} more in rescore.json")
    if found["goes_on"] or found["ends_earlier"]:
        lines.append(
            f"{found['goes_on']} episodes would continue beyond their record under these rules, "
            f"{found['ends_earlier']} end before it"
        )
    return "\n".join(lines)


def main() -> int:
    parser = ScriptParser(__doc__, "python -m eval.rescore", allow_abbrev=False)
    parser.add_argument("folder", help="result folder of a suite")
    parser.add_argument("--out", default=None, help="folder to write (default: FOLDER/rescored)")
    parser.add_argument("--data", default=None, help="the original data, if they cannot be found automatically")
    arguments, changes = parser.parse_known_args()
    folder = Path(arguments.folder)
    out = Path(arguments.out) if arguments.out else folder / "rescored"
    begun = time.monotonic()
    found = rescore(folder, out, arguments.data, changes)
    path = out / "rescore.json"
    path.write_text(json_text(found, indent=2) + "\n", encoding="utf-8")
    print(rescored_text(found))
    print(f"wrote {path} ({time.monotonic() - begun:.1f} s)")
    return 0


if __name__ == "__main__":
    run_main(main)
