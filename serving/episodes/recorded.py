"""Score episodes recorded elsewhere: the texts of the turns in, rewards out, many episodes per sandbox batch.

A trainer with its own rollouts passes the model's turns. Their calls are run again. This reproduces the results,
because a result depends only on the source and the arguments.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox
from reward.scoring import TurnScore, advance, score_turns
from reward.tool_calls import render_call
from serving.episodes.outcomes import MatchOutcome, match_outcome


def score_recorded(
    episodes: Sequence[tuple[Environment, Sequence[str]]],
    *,
    variant: str,
    match: str,
    sandbox: ToolSandbox | None = None,
) -> list[MatchOutcome]:
    """The outcome of each episode (environment, turns). Turns after a sandbox fault are not scored."""
    states = [environment for environment, _ in episodes]
    scores: list[list[TurnScore]] = [[] for _ in episodes]
    going = [place for place, (_, texts) in enumerate(episodes) if texts]
    while going:
        turns = [(states[place], episodes[place][1][len(scores[place])]) for place in going]
        for place, score in zip(going, score_turns(turns, variant=variant, match=match, sandbox=sandbox), strict=True):
            scores[place].append(score)
            if not score.fault:
                states[place] = advance(states[place], score)
        going = [p for p in going if not scores[p][-1].fault and len(scores[p]) < len(episodes[p][1])]
    return [match_outcome(start, found, match) for (start, _), found in zip(episodes, scores, strict=True)]


def turn_text(message: Mapping[str, Any]) -> str:
    """An assistant message as the model wrote it: thinking, content, and its calls in Qwen's tags.

    Arguments may be an object or JSON text. Text that is not a JSON object is kept and makes the call malformed.
    """
    parts = [f"<think>\n{message['reasoning_content']}\n</think>"] if message.get("reasoning_content") else []
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    parts += [content] if content else []
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            with contextlib.suppress(ValueError, RecursionError):
                arguments = json.loads(arguments or "{}")
        if isinstance(arguments, dict):
            parts.append(render_call(ToolCall(function["name"], arguments)))
        else:
            name = json.dumps(function["name"])
            parts.append(f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>')
    return "\n".join(parts)
