"""Write a finished suite in another project's result format: tau-bench's JSON, BFCL's result folder, an inspect-ai log.

Input: a result folder (`results.jsonl`, `summary.json`). Outputs, in --out:

| --to | suite | files | read by |
| --- | --- | --- | --- |
| `tau-bench` | `tau_bench` | `<domain>.json`, episodes with `task_id`, `reward`, `traj` | tau-bench's `run.py` |
| `bfcl` | `bfcl` | `<model>/<group>/BFCL_v4_<category>_result.json`, one line per case | `bfcl evaluate --result-dir` |
| `inspect` | any | `<suite>.json`, an evaluation log of version 2 | `inspect view`, `inspect_ai.log.read_eval_log` |

Only recorded text is written; nothing is scored again. Episodes that the infrastructure broke are left out; run the
suite again to complete it, because tau-bench's averages need all of them. The reward in tau-bench's file is this
project's (eval/tau_bench.py); `info` also has the one of the authors' code.

BFCL takes one trial per case: --trial chooses it. Calls are in the form of the package's OpenAI-style function-calling
handlers. The package looks up a handler by the folder's name, so --model-name must be such a model of its registry.

Example:
    python -m eval.leaderboards outputs/mine/tau_bench --to tau-bench --out outputs/mine/tau_bench/official

Source: tau-bench, `tau_bench/types.py`; bfcl-eval 2026.3.23, `model_handler/base_handler.py` and `utils.py`; inspect-ai
0.3, `inspect_ai/log/_log.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, json_text, run_main
from eval.bfcl import LIVE, MEMORY, MULTI_TURN
from eval.compare import numeric_columns
from eval.suites.results import read_rows, scored
from reward.tool_calls import parse_turn, with_call_ids
from train.policies.server_policy import server_messages

BFCL_VERSION = "BFCL_v4"
BFCL_MODEL = "gpt-4o-2024-11-20-FC"
Row = Mapping[str, Any]


def tau_bench_files(rows: Sequence[Row], summary: Row) -> dict[str, str]:
    """`{"<domain>.json": text}`: tau-bench's list of episodes, with messages in OpenAI's form."""
    domains: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        domain, _, task = str(row["id"]).partition("/")
        names = [call["function"]["name"] for message in row["transcript"] for call in message.get("tool_calls") or ()]
        messages = server_messages(row["transcript"])
        for message, name in zip((m for m in messages if m["role"] == "tool"), names, strict=False):
            message["name"] = name
        domains.setdefault(domain, []).append(
            {
                "task_id": int(task),
                "reward": row["reward"],
                "info": {
                    "reward_published": row["reward_published"],
                    "failure": row["failure"],
                    "agent": summary["policy"],
                    "user": summary["configuration"].get("user_model"),
                },
                "traj": messages,
                "trial": row["trial"],
            }
        )
    return {f"{domain}.json": json_text(episodes, indent=2) + "\n" for domain, episodes in domains.items()}


def bfcl_group(category: str) -> str:
    """The folder in which the package looks for a category."""
    if category in MEMORY:
        return f"agentic/memory/{category.removeprefix('memory_')}"
    if category in MULTI_TURN:
        return "multi_turn"
    return "live" if category in LIVE or category.startswith("live_") else "non_live"


def bfcl_step(text: str) -> list[dict[str, str]] | str:
    """One model turn: `[{name: arguments as JSON text}]`, or its text if it makes no call."""
    turn = parse_turn(text, "strict")
    return [{call.name: json.dumps(call.arguments)} for call in turn.calls] or turn.content


def bfcl_files(rows: Sequence[Row], model: str, trial: int) -> dict[str, str]:
    """`{path: text}`: a line `id`, `result`, token counts and `latency` per case, in the rows' order."""
    files: dict[str, list[str]] = {}
    for row in rows:
        if row["trial"] != trial or row["category"].endswith("_prereq"):
            continue
        category, turns = row["category"], row["turn_scores"]
        read, written = ([turn[name] for turn in turns] for name in ("prompt_tokens", "tokens"))
        steps = [bfcl_step(turn["text"]) for turn in turns]
        line: dict[str, Any] = {"id": row["id"]}
        if category in MULTI_TURN or category in MEMORY:
            line["result"] = user_turns(steps)
            line |= {"input_token_count": [read], "output_token_count": [written], "latency": [[row["seconds"]]]}
        else:
            line["result"] = steps[0] if steps else ""
            line |= {
                "input_token_count": sum(read), "output_token_count": sum(written), "latency": row["seconds"],
            }  # fmt: skip
        path = f"{model.replace('/', '_')}/{bfcl_group(category)}/{BFCL_VERSION}_{category}_result.json"
        files.setdefault(path, []).append(json_text(line) + "\n")
    return {path: "".join(lines) for path, lines in files.items()}


def user_turns(steps: Iterable[Any]) -> list[list[Any]]:
    """The steps by user turn: a step without a call (a text) ends one."""
    turns: list[list[Any]] = [[]]
    for step in steps:
        turns[-1].append(step)
        if isinstance(step, str):
            turns.append([])
    return turns if turns[-1] else turns[:-1]


def inspect_files(rows: Sequence[Row], summary: Row) -> dict[str, str]:
    """`{"<suite>.json": text}`: an inspect-ai log. A sample is a case, an epoch a trial (from 1)."""
    suite, configuration = summary["suite"], summary["configuration"]
    columns = [name for name in numeric_columns(rows) if name not in ("seed", "trial")]
    digest = hashlib.sha256(json_text([row["id"] for row in rows]).encode()).hexdigest()[:22]
    ids = list(dict.fromkeys(str(row["id"]) for row in rows))
    moment = summary.get("finished") or datetime.now(UTC).isoformat(timespec="seconds")
    log = {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": f"eval-{digest}", "run_id": f"run-{digest}", "task_id": f"task-{digest}",
            "created": moment,
            "task": suite,
            "task_args": {name: value for name, value in configuration.items() if not name.endswith("_content")},
            "dataset": {"name": suite, "samples": len(ids), "sample_ids": ids, "shuffled": False},
            "model": summary["policy"],
            "config": {"epochs": configuration.get("trials", 1), "limit": configuration.get("limit")},
            "packages": {name: str(version) for name, version in summary.get("versions", {}).items()},
            "metadata": {"protocol": summary.get("protocol"), "data_sha256": summary.get("data_sha256")},
        },
        "plan": {"name": "plan", "steps": [], "config": {
            "temperature": configuration.get("temperature"), "max_tokens": configuration.get("max_new_tokens"),
            "seed": configuration.get("seed"),
        }},
        "results": {
            "total_samples": len(rows), "completed_samples": len(rows),
            "scores": [_inspect_metric(name, metric) for name, metric in summary["metrics"].items()],
        },
        "stats": {"started_at": moment, "completed_at": moment},
        "samples": [_inspect_sample(row, columns, summary["policy"]) for row in rows],
    }  # fmt: skip
    return {f"{suite}.json": json_text(log, indent=2) + "\n"}


def _inspect_metric(name: str, metric: Row) -> dict[str, Any]:
    values = {"mean": metric["value"], "ci_low": metric["low"], "ci_high": metric["high"], "n": metric["n"]}
    known = {key: {"name": key, "value": value} for key, value in values.items() if value is not None}
    return {"name": name, "scorer": name, "scored_samples": metric["n"], "metrics": known}


def _inspect_sample(row: Row, columns: Sequence[str], model: str) -> dict[str, Any]:
    messages = [_inspect_message(message) for message in with_call_ids(row["transcript"])]
    spoken = next((place for place, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    last = next((message for message in reversed(messages) if message["role"] == "assistant"), None)
    read = sum(turn.get("prompt_tokens") or 0 for turn in row["turn_scores"])
    written = row["completion_tokens"]
    usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    choices = [{"message": last, "stop_reason": "stop"}] if last else []
    return {
        "id": row["id"],
        "epoch": row["trial"] + 1,
        "input": messages[:spoken],
        "target": "",
        "messages": messages,
        "output": {"model": model, "choices": choices, "usage": usage},
        "scores": {name: {"value": row[name]} for name in columns if row.get(name) is not None},
        "metadata": {
            name: row[name] for name in ("outcome", "failure", "category", "domain", "scenario") if row.get(name)
        },
        "model_usage": {model: usage},
        "total_time": row["seconds"],
    }


def _inspect_message(message: Row) -> dict[str, Any]:
    """A message in inspect-ai's form; thinking becomes a content part of its own."""
    content: Any = message.get("content") or ""
    if message.get("reasoning_content"):
        content = [{"type": "reasoning", "reasoning": message["reasoning_content"]}, {"type": "text", "text": content}]
    made: dict[str, Any] = {"role": message["role"], "content": content}
    if message.get("tool_calls"):
        made["tool_calls"] = [
            {"id": call["id"], "function": call["function"]["name"], "arguments": call["function"]["arguments"],
             "type": "function"}
            for call in message["tool_calls"]
        ]  # fmt: skip
    if message["role"] == "tool":
        made |= {"tool_call_id": message["tool_call_id"], "function": message.get("name")}
    return made


def read_folder(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The scored rows and the summary of a result folder. Raises BadInput."""
    rows = scored(read_rows(folder))
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        summary["suite"], summary["policy"], summary["metrics"], summary["configuration"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{folder}: expected the summary.json of a finished suite ({error}); run the suite first"
        ) from None
    if not rows or "transcript" not in rows[0] or "turn_scores" not in rows[0]:
        raise BadInput(f"{folder}/results.jsonl: expected scored rows with transcript and turn_scores")
    return sorted((dict(row) for row in rows), key=_place), summary


def _place(row: Row) -> tuple[str, int]:
    """Rows are written in completion order, which differs between runs."""
    return str(row["id"]), int(row["trial"])


def main() -> int:
    parser = ScriptParser(__doc__, "python -m eval.leaderboards")
    parser.add_argument("folder", help="result folder of a suite")
    parser.add_argument("--to", required=True, choices=("tau-bench", "bfcl", "inspect"))
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--model-name", default=BFCL_MODEL, help=f"bfcl: the folder's name (default: {BFCL_MODEL})")
    parser.add_argument("--trial", type=int, default=0, help="bfcl: the trial to write (default: 0)")
    arguments = parser.parse_args()
    rows, summary = read_folder(Path(arguments.folder))
    writers: dict[str, tuple[str | None, Callable[[], dict[str, str]]]] = {
        "tau-bench": ("tau_bench", lambda: tau_bench_files(rows, summary)),
        "bfcl": ("bfcl", lambda: bfcl_files(rows, arguments.model_name, arguments.trial)),
        "inspect": (None, lambda: inspect_files(rows, summary)),
    }
    suite, write = writers[arguments.to]
    if suite not in (None, summary["suite"]):
        raise BadInput(
            f"{arguments.folder}: --to {arguments.to} needs a result of eval.{suite}, this is one of "
            f"{summary['suite']}; --to inspect takes every suite"
        )
    files = write()
    if not files:
        raise BadInput(f"{arguments.folder}: has no row of trial {arguments.trial}")
    for name, text in files.items():
        path = Path(arguments.out) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    left_out = summary.get("faults") or 0
    print(f"wrote {len(files)} files to {arguments.out}" + (f"; {left_out} faults are left out" if left_out else ""))
    return 0


if __name__ == "__main__":
    run_main(main)
