"""What a tool must not do, judged by its probes (`probes.py`): answer without being asked, repeat what it is told,
know one thing only, or depend on the day. In the published data, which has no gold plan, a finding is a flag;
elsewhere it is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from env_construction.environment.evidence import found_leaves
from env_construction.environment.matching import strict_match
from env_construction.environment.schema import Environment
from env_construction.rules.finding import Finding
from env_construction.rules.probes import Probe, Probed
from env_construction.rules.question_rules import is_trivial
from env_construction.rules.replay import UNKNOWN
from env_construction.sandbox.tool_sandbox import ToolResult

LEAST_ENTITIES = 2
"""A tool that has a table answers about so many names at least."""
_REFUSAL = re.compile(
    r"\b(?:no|not|none|never|unknown|invalid|unsupported|unable|cannot|missing|\w+n't)\b", re.IGNORECASE
)

ProbeRule = Callable[[Environment, Probed], Finding | None]


def neutral_call_tells_nothing(environment: Environment, probed: Probed) -> Finding | None:
    """A call that names no entity, or one with a text that means nothing, gives no sub-answer."""
    for tool, answers in environment.unsolved_set.items():
        for probe, result, answer in _giving(probed, "neutral", tool, answers):
            message = f"{_shown(probe)} gives {answer!r}: {result.output[:120]}"
            return Finding("neutral_call_tells_nothing", message, bool(environment.gold_plan), tool)
    return None


def options_tell_nothing(environment: Environment, probed: Probed) -> Finding | None:
    """No boolean and no choice of an enumeration makes a tool give a sub-answer about an unknown entity."""
    asked = {item.id: [item.answer] for item in environment.sub_questions}
    for place, answers in (asked if environment.gold_plan else environment.unsolved_set).items():
        for probe, result, answer in _giving(probed, "option", place, answers):
            message = f"{_shown(probe)} gives {answer!r}: {result.output[:120]}"
            return Finding("options_tell_nothing", message, bool(environment.gold_plan), place)
    return None


def argument_is_not_echoed(environment: Environment, probed: Probed) -> Finding | None:
    """A word that nobody knows does not come back in a result, or only in an error: else naming an answer would give
    it."""
    for probe, result in probed.probes:
        if probe.name == UNKNOWN and result.ok:
            for text, _ in found_leaves(result.output):
                if UNKNOWN.casefold() in text.casefold() and not _REFUSAL.search(text):
                    message = f"{_shown(probe)} repeats it: {result.output[:120]}"
                    return Finding("argument_is_not_echoed", message, bool(environment.gold_plan), probe.place)
    return None


def several_entities_known(environment: Environment, probed: Probed) -> Finding | None:
    """A tool whose table holds the gold call's name tells something of another name of that table too."""
    for item in environment.sub_questions:
        results = probed.of("entity", item.id)
        nothing = {_without(probe, result) for probe, result in results if probe.name == UNKNOWN}
        known = 1 + sum(
            result.ok and any(found_leaves(result.output)) and _without(probe, result) not in nothing
            for probe, result in results
            if probe.name != UNKNOWN
        )
        if results and known < LEAST_ENTITIES:
            message = f"the tool of {item.id} knows {known}, expected {LEAST_ENTITIES} at least"
            return Finding("several_entities_known", message, bool(environment.gold_plan), item.id)
    return None


def same_on_another_day(environment: Environment, probed: Probed) -> Finding | None:
    """In other processes, with other hash seeds and on other days, the same call gives the same result."""
    for place, here, others in probed.elsewhere:
        for other in others:
            if (other.status, other.output) != (here.status, here.output):
                message = (
                    f"{place}: {here.output[:80]!r}, and {other.output[:80]!r} on another day or with another hash seed"
                )
                return Finding("same_on_another_day", message, bool(environment.gold_plan), place)
    return None


PROBE_RULES: tuple[ProbeRule, ...] = (
    neutral_call_tells_nothing,
    options_tell_nothing,
    argument_is_not_echoed,
    several_entities_known,
    same_on_another_day,
)


def _giving(probed: Probed, kind: str, place: str, answers: list[str]) -> Iterator[tuple[Probe, ToolResult, str]]:
    """The probes whose result holds a sub-answer that chance does not explain, nor the call's own arguments."""
    telling = [answer for answer in answers if not is_trivial(answer)]
    for probe, result in probed.of(kind, place) if telling else ():
        if not result.ok:
            continue
        leaves = json.dumps([text for text, _ in found_leaves(result.output)], ensure_ascii=False)
        given = json.dumps(probe.call.arguments, ensure_ascii=False)
        for answer in telling:
            if strict_match(answer, leaves) and not strict_match(answer, given):
                yield probe, result, answer


def _without(probe: Probe, result: ToolResult) -> str:
    return result.output.casefold().replace(probe.name.casefold(), "")


def _shown(probe: Probe) -> str:
    return f"{probe.call.name}({json.dumps(probe.call.arguments, ensure_ascii=False)[:120]})"
