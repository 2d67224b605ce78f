"""Result rows -> what the report's trajectory viewer shows: turns, calls coloured by what became of them, rewards.

A call is `solved` (it solves a sub-answer), `failed` (the tool raised, was unknown, timed out, or gave an error back)
or `useless` (it ran and solved nothing). Long texts are cut, and say so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from analysis.run_data.run_folder import Run
from env_construction.environment.schema import SCENARIOS, Environment

TEXT_LIMIT, OUTPUT_LIMIT, DOCUMENT_LIMIT = 1500, 500, 300


def shorten(text: Any, limit: int) -> str:
    """`text` with at most `limit` characters; what was cut is counted at the end."""
    text = "" if text is None else text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit} more characters)"


def call_state(solved: Any, status: str, output: Any = None) -> str:
    """`solved`, `failed` or `useless`. A tool that gives `{"error": ...}` back ran, but failed."""
    if solved is not None:
        return "solved"
    return "useless" if status == "ok" and not _reports_error(output) else "failed"


def _reports_error(output: Any) -> bool:
    try:
        value = json.loads(output) if isinstance(output, str) else output
    except ValueError:
        return False
    return isinstance(value, dict) and bool(value.get("error"))


def _call(call: Mapping[str, Any], solved: Any, status: str, output: Any) -> dict[str, Any]:
    function = call.get("function", call)
    return {
        "name": str(function.get("name")),
        "arguments": shorten(function.get("arguments"), OUTPUT_LIMIT),
        "state": call_state(solved, status, output),
        "solves": shorten(solved, OUTPUT_LIMIT) if solved is not None else "",
        "status": status,
        "output": shorten(output, OUTPUT_LIMIT),
    }


def episode_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """One episode of a result row as the viewer takes it."""
    scores = list(row.get("turn_scores") or [])
    messages = list(row.get("transcript") or [])
    spoken = [place for place, message in enumerate(messages) if message.get("role") == "assistant"]
    spoken = spoken[len(spoken) - len(scores) :] if scores else []
    turns = []
    for score, place in zip(scores, spoken, strict=False):
        calls = messages[place].get("tool_calls") or []
        outputs = []
        for message in messages[place + 1 :]:
            if message.get("role") != "tool":
                break
            outputs.append(message.get("content"))
        solved, status = score.get("solved") or [], score.get("status") or []
        turns.append(
            {
                "reward": score.get("reward"),
                "kind": score.get("kind"),
                "p": score.get("p"),
                "q": score.get("q"),
                "t": score.get("t"),
                "thinking": shorten(messages[place].get("reasoning_content"), TEXT_LIMIT),
                "text": shorten(score.get("text") if not calls else messages[place].get("content"), TEXT_LIMIT),
                "calls": [
                    _call(
                        call,
                        solved[index] if index < len(solved) else None,
                        status[index] if index < len(status) else "unknown",
                        outputs[index] if index < len(outputs) else None,
                    )
                    for index, call in enumerate(calls)
                ],
            }
        )
    numbers = (
        "solve_p",
        "solve_r",
        "solve_f1",
        "calls",
        "solved",
        "sub_questions",
        "outcome",
        "failure",
        "answer_correct",
    )
    return {"turns": turns} | {key: row.get(key) for key in numbers}


def environment_view(environment: Environment) -> dict[str, Any]:
    """Question, tools and gold plan of an environment."""
    gold = {call.sub_question: call for call in environment.gold_plan}
    plan = []
    for item in environment.sub_questions:
        call = gold.get(item.id)
        shown = f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})" if call else item.tool
        plan.append(
            {"question": item.question, "answer": item.answer, "call": shown, "needs": ", ".join(item.depends_on)}
        )
    return {
        "id": environment.id,
        "scenario": environment.scenario or "",
        "question": shorten(environment.question, TEXT_LIMIT),
        "answer": environment.answer,
        "plan": plan,
        "tools": [
            {
                "name": tool.name,
                "description": shorten(tool.description, DOCUMENT_LIMIT),
                "parameters": list((tool.parameters.get("properties") or {}).keys()),
                "required": list(tool.parameters.get("required") or []),
            }
            for tool in environment.tools
        ],
    }


def viewer_data(run: Run, limit: int = 120) -> dict[str, Any]:
    """Everything the viewer needs: at most `limit` test environments, in turn from each scenario, and every policy's
    episode.

    Returns `{"environments": [...], "policies": [{"name", "label", "role", "start"}], "episodes": {policy: {id:
    episode}}, "of": total}`.
    """
    environments = list(run.environments().values())
    queues = [[item for item in environments if item.scenario == scenario] for scenario in (*SCENARIOS, None)]
    chosen: list[Environment] = []
    for place in range(max((len(queue) for queue in queues), default=0)):
        chosen += [queue[place] for queue in queues if place < len(queue)]
    chosen = chosen[:limit]
    wanted = {environment.id for environment in chosen}
    episodes: dict[str, dict[str, Any]] = {}
    for policy in run.policies:
        for row in run.rows(policy):
            if row["id"] in wanted and int(row.get("trial") or 0) == 0:
                episodes.setdefault(policy, {})[str(row["id"])] = episode_view(row)
    return {
        "environments": [environment_view(environment) for environment in chosen],
        "policies": [
            {
                "name": policy,
                "label": run.label(policy),
                "role": run.roles[policy].role,
                "start": run.roles[policy].start,
            }
            for policy in run.policies
            if policy in episodes
        ],
        "episodes": episodes,
        "of": len(environments),
    }
