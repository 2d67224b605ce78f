"""The LLM author: a language model behind an OpenAI-compatible endpoint writes all five stages, from questions or for
domains.

Paper section 3.1, where GPT-4o is the author. A model proposes; `author.ask_until_valid` checks each proposal by the
rules that hold for every author, and shows the model the message of the rule that it broke, in the same conversation,
at most `tries` times. Its code is tried in the sandbox as soon as it is written: the calls that need the tool must
return their answers. What the final validation finds is mended by `repair.py`. Code that a model wrote never runs
anywhere else.

Facts are the model's: nothing here tells whether they are true. Where the build is counterfactual (`--counterfactual`:
train, dev and half of test unless switched off) they are invented on purpose, so that no policy can answer from memory.

Example (a key, where one is needed, in OPENAI_API_KEY; prices in USD per million tokens):
    python -m env_construction.build --author llm --base-url https://api.openai.com/v1 --model gpt-4o \\
        --questions questions.txt --level paper --concurrency 16 --budget 20 --price-in 2.5 --price-out 10 \\
        --out outputs/mine/environments
    python -m env_construction.build --author llm --base-url http://localhost:8000/v1 --model Qwen/Qwen3-14B \
        --domains "museums,river ships" --n-train 200 --n-dev 20 --n-test 40 --out outputs/museums/environments
"""

from __future__ import annotations

import random
import string
from keyword import iskeyword
from typing import Any

from pydantic import BaseModel, Field

from env_construction.building.author import Decomposition, Draft, Rejected, Step, Toolset, WrittenDocument, stage_rng
from env_construction.environment.matching import published_match, strict_match
from env_construction.environment.schema import Scenario, ToolDocument
from env_construction.facts.levels import LEVELS, Level, draw_weighted
from env_construction.llm.endpoint import Endpoint, Reply
from env_construction.llm.replies import as_data, prompt_versions, read_model, read_source, render
from env_construction.rules.question_rules import answer_in_arguments, is_trivial
from env_construction.rules.tool_rules import ALLOWED_IMPORTS, source_problem
from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox

SHAPES: dict[Scenario, str] = {
    "single_hop": "One sub-question.",
    "parallel_single_hop": "2 to 6 sub-questions that do not depend on each other.",
    "multi_hop": "A chain of 2 to 10 sub-questions; each one depends on the one right before it.",
    "parallel_multi_hop": "3 to 11 sub-questions, later ones depending on earlier ones, with at least one fork or join.",
}
_SCHEMA = (
    '{"question": "...", "steps": [{"id": "q1", "question": "...", "answer": "...", "depends_on": [], "function": "...", '
    '"inputs": {"name of input": "value"}}, ...], "answer": "...", "answer_rule": "...", "scenario": "..."}'
)


class WrittenPlan(Decomposition):
    """Stage 1 as the model replies; `scenario` counts where the question came without one."""

    scenario: Scenario | None = None


class LlmNotes(BaseModel):
    """What the author remembers of a draft: its conversations with the model, one for each stage and item."""

    talks: dict[str, list[dict[str, str]]] = Field(default_factory=dict)


class LlmAuthor:
    """Implements `Author`. Thread-safe: what belongs to a draft is kept in the draft. The sandbox is the caller's to
    close.
    """

    name = "llm"

    def __init__(self, endpoint: Endpoint, sandbox: ToolSandbox, tries: int = 3) -> None:
        self.endpoint = endpoint
        self.sandbox = sandbox
        self.tries = tries

    def decompose(self, draft: Draft, problem: str | None) -> Decomposition:
        topic = draft.topic
        if topic is None:
            raise Rejected("topic_missing", f"{draft.id}: the LLM author needs a question or a domain")
        draft.provenance["llm"] = {
            "model": self.endpoint.options.model,
            "endpoint": self.endpoint.options.host,
            "temperature": self.endpoint.options.temperature,
            "prompts": prompt_versions(),
        }
        rng = stage_rng(draft, "decomposition")
        scenario = draft.scenario if topic.scenario or not topic.question else None
        reply = self._ask(
            draft,
            "scenario_decomposition",
            "",
            problem,
            question=as_data(topic.question) if topic.question else None,
            domain=as_data(topic.domain),
            initial=rng.choice(string.ascii_uppercase),
            scenario=scenario,
            shapes=SHAPES,
            hops=0 if topic.question else draw_weighted(rng, LEVELS[draft.level].hops[draft.scenario]),
            invented=draft.counterfactual,
            schema=_SCHEMA,
        )
        plan = read_model(reply, WrittenPlan)
        if scenario is None:
            if plan.scenario is None:
                raise Rejected("reply_schema", f"scenario: expected one of {', '.join(SHAPES)}")
            draft.scenario = plan.scenario
        for step in plan.steps:
            if is_trivial(step.answer):
                raise Rejected("sub_answer_trivial", f"{step.answer!r}, the answer of {step.id}, is matched by chance")
        question = topic.question or plan.question
        return Decomposition(question=question, steps=plan.steps, answer=plan.answer, answer_rule=plan.answer_rule)

    def write_document(self, draft: Draft, step: Step, problem: str | None) -> WrittenDocument:
        reply = self._ask(draft, "document_generation", step.id, problem, step=as_data(step.model_dump()))
        written = read_model(reply, WrittenDocument)
        _check_names(written.document)
        _check_dependencies(draft, step, written.arguments)
        return written

    def integrate(self, draft: Draft, problem: str | None) -> Toolset:
        toolset = _unmerged(draft)
        if len(toolset.tools) == 1:
            return toolset
        reply = self._ask(draft, "function_integration", "", problem, toolset=as_data(toolset.model_dump()))
        return self._read_toolset(draft, reply)

    def scale(self, draft: Draft, strategy: str, problem: str | None) -> Toolset:
        rng, level = stage_rng(draft, strategy), LEVELS[draft.level]
        toolset = Toolset(tools=draft.tools, calls=draft.calls)
        missing = draw_weighted(rng, level.tools[draft.scenario]) - len(draft.tools)
        if not _applies(strategy, level, missing, rng):
            return toolset
        reply = self._ask(
            draft,
            "complexity_scaling",
            strategy,
            problem,
            strategy=strategy,
            toolset=as_data(toolset.model_dump()),
            parameters=draw_weighted(rng, level.parameters),
            missing=missing,
        )
        scaled = self._read_toolset(draft, reply)
        if strategy == "toolset_extension":
            added = len(scaled.tools) - len(draft.tools)
            if added != missing:
                raise Rejected("toolset_size", f"expected {missing} more tools, there are {added}")
            changed = [tool.name for tool in draft.tools if tool not in scaled.tools]
            if changed:
                raise Rejected("toolset_changed", f"{', '.join(changed)} must stay as they are")
        return scaled

    def deploy(self, draft: Draft, tool: ToolDocument, problem: str | None) -> str:
        answers = {step.id: step.answer for step in draft.plan.steps}
        gold = [
            {"arguments": call.arguments, "answer": answers[call.sub_question]}
            for call in draft.calls
            if call.name == tool.name
        ]
        own = [call["answer"] for call in gold]
        reply = self._ask(
            draft,
            "localized_deployment",
            tool.name,
            problem,
            as_json=False,
            name=tool.name,
            document=as_data(tool.model_dump()),
            gold=as_data(gold) if gold else "",
            foreign=as_data([answer for answer in answers.values() if answer not in own]),
            imports=", ".join(sorted(ALLOWED_IMPORTS)),
        )
        source = read_source(reply, tool.name)
        broken = source_problem(source, tool.name)
        if broken:
            raise Rejected(*broken)
        self._try_out(draft, tool, source)
        return source

    def instruction(self, draft: Draft) -> str:
        return stage_rng(draft, "instruction").choice(LEVELS[draft.level].instruction)

    def _try_out(self, draft: Draft, tool: ToolDocument, source: str) -> None:
        """Run the calls that need this tool. Raises Rejected where one does not return its answer."""
        answers = {step.id: step.answer for step in draft.plan.steps}
        calls = [call for call in draft.calls if call.name == tool.name]
        results = self.sandbox.run({tool.name: source}, [ToolCall(call.name, call.arguments) for call in calls])
        for call, result in zip(calls, results, strict=True):
            if result.status == "fault":
                continue  # the sandbox's own trouble: the final validation decides
            answer, shown = answers[call.sub_question], as_data(call.arguments)
            if not result.ok:
                raise Rejected(
                    "gold_call_fails", f"{tool.name}({shown}) failed ({result.status}): {result.output[:300]}"
                )
            if not (strict_match(answer, result.output) and published_match(answer, result.output)):
                raise Rejected(
                    "gold_call_lacks_answer",
                    f"{tool.name}({shown}) returned {result.output[:300]}, which does not hold {answer!r}",
                )

    def _read_toolset(self, draft: Draft, reply: Reply) -> Toolset:
        toolset = read_model(reply, Toolset)
        steps = {step.id: step for step in draft.plan.steps}
        for tool in toolset.tools:
            _check_names(tool)
        for call in toolset.calls:
            if call.sub_question in steps:
                _check_dependencies(draft, steps[call.sub_question], call.arguments)
        return toolset

    def _ask(
        self, draft: Draft, stage: str, item: str, problem: str | None, as_json: bool = True, **values: Any
    ) -> Reply:
        """The model's reply; a `problem` goes on with the conversation that led to it."""
        notes = draft.notes if isinstance(draft.notes, LlmNotes) else LlmNotes.model_validate(draft.notes or {})
        key = f"{stage}:{item}" if item else stage
        talk = notes.talks.get(key) if problem is not None else None
        if talk is None:
            talk = [
                {"role": "system", "content": render("system")},
                {"role": "user", "content": render(stage, **values)},
            ]
        if problem is not None:
            talk = [*talk, {"role": "user", "content": render("repair", problem=as_data(problem))}]
        seed = stage_rng(draft, f"{key}:{len(talk)}").randrange(2**31)
        reply = self.endpoint.ask(stage, talk, seed, as_json)
        said = reply.text or reply.refusal or "(nothing)"
        notes.talks[key] = [*talk, {"role": "assistant", "content": said}]
        draft.notes = notes
        return reply


def _check_names(document: ToolDocument) -> None:
    """Tool and parameters can be names in Python: stage 5 defines a function with them. Raises Rejected."""
    properties = document.parameters.get("properties", {})
    for name in (document.name, *(properties if isinstance(properties, dict) else ())):
        if not name.isidentifier() or iskeyword(name) or name.startswith("__"):
            raise Rejected("name_invalid", f"{document.name}: {name!r} cannot be the name of a function or parameter")


def _check_dependencies(draft: Draft, step: Step, arguments: dict[str, Any]) -> None:
    """The call cannot be written without the earlier answers. Raises Rejected."""
    answers = {other.id: other.answer for other in draft.plan.steps}
    for name in step.depends_on:
        if not answer_in_arguments(answers[name], arguments):
            raise Rejected(
                "dependency_not_used", f"the call of {step.id} does not hold {answers[name]!r}, the answer of {name}"
            )


def _unmerged(draft: Draft) -> Toolset:
    """One tool for each document; equal documents are one tool from the start."""
    tools: list[ToolDocument] = []
    calls = []
    for step in draft.plan.steps:
        written = draft.documents[step.id]
        if written.document not in tools:
            tools.append(written.document)
        calls.append({"sub_question": step.id, "name": written.document.name, "arguments": written.arguments})
    return Toolset.model_validate({"tools": [tool.model_dump() for tool in tools], "calls": calls})


def _applies(strategy: str, level: Level, missing: int, rng: random.Random) -> bool:
    """Whether the level asks for the strategy in this environment."""
    if strategy == "toolset_extension":
        return missing > 0
    if strategy == "parameter_expansion":
        return bool(level.kinds)
    if strategy == "functional_generalization":
        return rng.random() < max(level.generalize_share, 0.25)
    return rng.random() < max(level.array_share + level.object_share, level.unit_share)
