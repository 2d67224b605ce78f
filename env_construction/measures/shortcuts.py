"""Policies that must fail: each uses a shortcut that has nothing to do with the question's meaning.

Three kinds:
- Choosers name one tool and never call it: the tool with the fewest required parameters, the first in the list, the one
  whose words occur in the question. Score: how often the tool is needed. Chance: the share of needed tools. Ties count
  as the share of needed tools among the tied ones.
- Callers call every needed tool without an entity: with meaningless arguments, with the question as every text, with
  all booleans set. Score: the share of sub-questions that the calls solve under strict matching. Chance: 0.
- Guessers need no tool: the most frequent answer of the other environments, the first choice of an enumeration, the
  question itself. Score: how often they are right. Chance: a random other answer, a random choice, or 0.

A policy leaks if the lower end of its score's 95% interval is above `allowed`: chance plus MARGIN, or what the policy
reaches in the published data, if that is more (words of the question point to the needed tool in every honest data
set). Data sets differ in their chance, so this is measured as the share of the way from chance to certainty.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from env_construction.environment.argument_filler import Fixed, fill
from env_construction.environment.matching import assign, only_answer_in_text
from env_construction.environment.schema import Environment, ToolDocument
from env_construction.environment.tool_schema import plain_schema
from env_construction.measures.intervals import wilson
from env_construction.rules.state_rules import from_tables, on_tables
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolSandbox

MARGIN = 0.05
NONSENSE = ("Qwxzvu", "x", "")
# (score - chance) / (1 - chance) in 40 published environments (10 per scenario), where it is above MARGIN
PUBLISHED = {
    "name overlap": 0.44,
    "document overlap": 0.70,
    "name overlap, single-hop": 0.19,
    "document overlap, single-hop": 0.54,
    "nonsense arguments": 0.064,
    "question as argument": 0.058,
    "dump flags": 0.064,
    "question as answer": 0.15,
}
SINGLE = "single_hop"
_WORD = re.compile(r"[a-z]+|\d+")
_PLAIN_TEXT = """a an and any are as at be by call can correct did do does else every fails find for from give given had
has have help how if in into is it its many much name of on or question same second tell than that the them then this
through to tool tools until used using was were what when where which who whose will with you your"""
_PLAIN = frozenset(_PLAIN_TEXT.split())


@dataclass(frozen=True)
class Row:
    """One policy on one data set. `n` counts environments, sub-questions or enumeration arguments (`unit`)."""

    policy: str
    unit: str
    n: int
    score: float
    chance: float
    low: float
    high: float
    allowed: float

    @property
    def leaks(self) -> bool:
        return self.n > 0 and self.low > self.allowed


def _row(policy: str, unit: str, scores: Sequence[float], chances: Sequence[float]) -> Row:
    n = len(scores)
    score = sum(scores) / n if n else math.nan
    chance = sum(chances) / n if n else math.nan
    allowed = chance + max(MARGIN, PUBLISHED.get(policy, 0.0) * (1 - chance))
    return Row(policy, unit, n, score, chance, *wilson(sum(scores), n), allowed)


def words_of(text: str) -> set[str]:
    """The content words of a text, without a plural's s."""
    found = _WORD.findall(text.lower().replace("_", " "))
    return {word[:-1] if len(word) > 3 and word.endswith("s") else word for word in found} - _PLAIN


def asked_text(environment: Environment) -> str:
    """The question without the instruction before it."""
    return environment.question.split("Question:", 1)[-1]


def needed_tools(environment: Environment) -> set[str]:
    return {name for name, answers in environment.unsolved_set.items() if answers}


# --- choosers ---------------------------------------------------------------------------------------------------------


def _document_words(tool: ToolDocument) -> set[str]:
    return words_of(f"{tool.name} {tool.description} {json.dumps(tool.parameters, ensure_ascii=False)}")


def _name_overlap(environment: Environment) -> list[float]:
    question = words_of(asked_text(environment))
    return [len(words_of(tool.name) & question) for tool in environment.tools]


def _document_overlap(environment: Environment) -> list[float]:
    """Words of the question in a tool's document, each weighted by how few of the environment's documents have it."""
    question = words_of(asked_text(environment))
    documents = [_document_words(tool) for tool in environment.tools]
    weight = {
        word: math.log(len(documents) / sum(word in text for text in documents)) for word in set().union(*documents)
    }
    return [sum(weight[word] for word in sorted(text & question)) for text in documents]


def _count(key: str) -> Callable[[Environment], list[float]]:
    return lambda environment: [float(len(tool.parameters.get(key) or ())) for tool in environment.tools]


def _negative(rank: Callable[[Environment], list[float]]) -> Callable[[Environment], list[float]]:
    return lambda environment: [-value for value in rank(environment)]


def _length(environment: Environment) -> list[float]:
    return [float(len(json.dumps(tool.as_openai(), ensure_ascii=False))) for tool in environment.tools]


def _position(environment: Environment) -> list[float]:
    return [float(place) for place in range(len(environment.tools))]


# policy -> one number per tool; the policy takes the tool with the highest
CHOOSERS: dict[str, Callable[[Environment], list[float]]] = {
    "fewest required parameters": _negative(_count("required")),
    "most required parameters": _count("required"),
    "fewest parameters": _negative(_count("properties")),
    "shortest document": _negative(_length),
    "longest document": _length,
    "first tool": _negative(_position),
    "name overlap": _name_overlap,
    "document overlap": _document_overlap,
}


def choice(environment: Environment, rank: Callable[[Environment], list[float]]) -> tuple[float, float]:
    """(probability that the best-ranked tool is needed, share of needed tools). Ties are drawn at random."""
    needed = needed_tools(environment)
    ranks = rank(environment)
    best = max(ranks)
    tied = [tool.name in needed for tool, value in zip(environment.tools, ranks, strict=True) if value >= best - 1e-9]
    share = sum(tool.name in needed for tool in environment.tools) / len(environment.tools)
    return sum(tied) / len(tied), share


def chooser_rows(environments: Sequence[Environment]) -> Iterator[Row]:
    """Two rows per chooser: over all environments, and over single-hop ones, where chance is lowest."""
    for scope in ("", SINGLE):
        chosen = [item for item in environments if item.tools and scope in ("", item.scenario)]
        for policy, rank in CHOOSERS.items():
            drawn = [choice(environment, rank) for environment in chosen]
            name = f"{policy}, single-hop" if scope else policy
            yield _row(name, "environments", [hit for hit, _ in drawn], [share for _, share in drawn])


# --- callers ----------------------------------------------------------------------------------------------------------


def _flags_set(tool: ToolDocument, filled: dict[str, Any]) -> dict[str, Any]:
    properties = plain_schema(tool.parameters, tool.parameters).get("properties") or {}
    booleans = [
        name for name, schema in properties.items() if plain_schema(schema, tool.parameters)["type"] == "boolean"
    ]
    return {**filled, **dict.fromkeys(booleans, True)}


def _nonsense(environment: Environment, tool: ToolDocument) -> list[dict[str, Any]]:
    return [{}, *(fill(tool.parameters, Fixed(text)) for text in NONSENSE)]


def _question_as_argument(environment: Environment, tool: ToolDocument) -> list[dict[str, Any]]:
    text = asked_text(environment).strip()
    return [fill(tool.parameters, Fixed(text, everything=everything)) for everything in (False, True)]


def _dump_flags(environment: Environment, tool: ToolDocument) -> list[dict[str, Any]]:
    """Everything that a boolean can turn on, about nobody and with empty texts."""
    return [
        _flags_set(tool, fill(tool.parameters, Fixed(text, everything=everything)))
        for text in NONSENSE
        for everything in (False, True)
    ] + [_flags_set(tool, {})]


CALLERS: dict[str, Callable[[Environment, ToolDocument], list[dict[str, Any]]]] = {
    "nonsense arguments": _nonsense,
    "question as argument": _question_as_argument,
    "dump flags": _dump_flags,
}


def _writing_tools(environment: Environment) -> set[str]:
    return environment.state.writing_tools if environment.state else set()


def caller_rows(environments: Sequence[Environment], sandbox: ToolSandbox) -> Iterator[Row]:
    """Each caller calls every needed tool. Tools without code, and sub-answers without a tool, are not solved.

    In a stateful environment, each call gets the first tables. Tools that write are left out: their sub-questions are
    solved by what they change, not by what they return.
    """
    for policy, arguments_of in CALLERS.items():
        plain = []
        for environment in environments:
            asked = needed_tools(environment) & environment.codes.keys() - _writing_tools(environment)
            tools = [tool for tool in environment.tools if tool.name in asked]
            calls = [ToolCall(tool.name, arguments) for tool in tools for arguments in arguments_of(environment, tool)]
            plain.append(SandboxJob({tool.name: environment.codes[tool.name] for tool in tools}, calls))
        jobs = [
            on_tables(item.state, job, alone=True) if item.state else job
            for item, job in zip(environments, plain, strict=True)
        ]
        scores: list[float] = []
        for environment, job, found_by_job in zip(environments, plain, sandbox.run_batch(jobs), strict=True):
            state = environment.state
            results = from_tables(state, job, found_by_job).results if state else found_by_job
            for name, answers in environment.unsolved_set.items():
                if name in _writing_tools(environment):
                    continue
                made = [(call, result) for call, result in zip(job.calls, results, strict=True) if call.name == name]
                solved = assign(answers, [result for _, result in made], "strict", [call.arguments for call, _ in made])
                found = {index for indices in solved for index in indices}
                scores += [float(index in found) for index in range(len(answers))]
        yield _row(policy, "sub-questions", scores, [0.0] * len(scores))


# --- guessers ---------------------------------------------------------------------------------------------------------


def _normal(answer: str) -> str:
    return " ".join(answer.casefold().replace(",", "").split())


def _guesses(grouped: Mapping[str, Sequence[str]]) -> Iterator[tuple[float, float]]:
    """(most frequent answer of the others in the group is right, a random other one is right) for each answer."""
    for answers in grouped.values():
        counts = Counter(map(_normal, answers))
        for answer in map(_normal, answers) if len(answers) > 1 else ():
            others = counts - Counter([answer])
            most = max(others.values())
            tied = sorted(text for text, number in others.items() if number == most)
            yield float(answer in tied) / len(tied), others[answer] / (len(answers) - 1)


def _by_scenario(environments: Sequence[Environment]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = defaultdict(list)
    for environment in environments:
        if environment.answer is not None:
            grouped[environment.scenario or "unknown"].append(environment.answer)
    return grouped


def _by_relation(environments: Sequence[Environment]) -> dict[str, list[str]]:
    """Sub-answers by the relation that they answer; empty for the published data, which names no relations."""
    grouped: dict[str, list[str]] = defaultdict(list)
    for environment in environments:
        relations = environment.provenance.get("functions", [])
        for item, relation in zip(environment.sub_questions, relations, strict=False):
            grouped[relation].append(item.answer)
    return grouped


def enumeration_arguments(environment: Environment) -> Iterator[tuple[Any, list[Any]]]:
    """(value, choices) of each argument of a gold call that has choices."""
    documents = {tool.name: tool.parameters for tool in environment.tools}
    for call in environment.gold_plan:
        parameters = documents.get(call.name, {})
        properties = plain_schema(parameters, parameters).get("properties") or {}
        for name, value in call.arguments.items():
            choices = plain_schema(properties.get(name, True), parameters).get("enum") or []
            if len(choices) > 1 and value in choices:
                yield value, list(choices)


def guesser_rows(environments: Sequence[Environment]) -> Iterator[Row]:
    for policy, grouped, unit in (
        ("most frequent answer", _by_scenario(environments), "environments"),
        ("most frequent answer of the relation", _by_relation(environments), "sub-questions"),
    ):
        guesses = list(_guesses(grouped))
        yield _row(policy, unit, [hit for hit, _ in guesses], [chance for _, chance in guesses])
    drawn = [item for environment in environments for item in enumeration_arguments(environment)]
    yield _row(
        "first enumeration value",
        "arguments",
        [float(value == choices[0]) for value, choices in drawn],
        [1 / len(choices) for _, choices in drawn],
    )
    asked = [item for item in environments if item.answer is not None]
    echoed = [
        float(only_answer_in_text(item.answer or "", asked_text(item), [sub.answer for sub in item.sub_questions]))
        for item in asked
    ]
    yield _row("question as answer", "environments", echoed, [0.0] * len(echoed))


def audit(environments: Sequence[Environment], sandbox: ToolSandbox) -> list[Row]:
    """All rows. Raises ValueError without environments."""
    if not environments:
        raise ValueError("the shortcut audit needs at least one environment")
    return [*chooser_rows(environments), *caller_rows(environments, sandbox), *guesser_rows(environments)]


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'policy':<40}{'n':>6} {'of':<15}{'score [95%]':<26}{'chance':>8}{'allowed':>9}"]
    for row in rows:
        if not row.n:
            lines.append(f"{row.policy:<40}{0:>6} {row.unit:<15}not applicable: needs a gold plan or named relations")
            continue
        score = f"{row.score:.3f} [{row.low:.3f}, {row.high:.3f}]"
        verdict = "  LEAKS" if row.leaks else ""
        levels = f"{row.chance:>8.3f}{row.allowed:>9.3f}"
        lines.append(f"{row.policy:<40}{row.n:>6} {row.unit:<15}{score:<26}{levels}{verdict}")
    return "\n".join(lines)
