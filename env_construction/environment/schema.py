"""The environment record: typed, validated, and interchangeable with the authors' JSONL.

There is one environment per line. The authors' keys come first, with `tools`, `codes` and `unsolved_set` as JSON
strings, as in their files. Then come ours: `id`, `scenario`, `sub_questions`, `gold_plan`, `provenance`. A record
without our keys (the published data) is valid. It has no gold plan, and its id is derived from its content. Only a
record whose tools change a database has the key `state` (`state.py`), and only one with constraints has the key
`constraints` (`constraints.py`). Both are JSON strings.

Files are JSONL or Parquet. A table changes records: null for a missing key, JSON text for an object. Reading reverses
that, so Parquet, and JSONL written by the package `datasets`, give back the original environments.

Source of the format: paper/README.md, "Data format"; scenarios: paper section 3.1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from env_construction.environment.constraints import Constraint, listed
from env_construction.environment.jsonl import BadInput, json_text, write_jsonl
from env_construction.environment.record_files import read_records
from env_construction.environment.state import EnvironmentState
from env_construction.environment.tool_schema import parameters_schema, schema_problem, without_filled_nulls
from env_construction.replies.message_content import read_content

Scenario = Literal["single_hop", "parallel_single_hop", "multi_hop", "parallel_multi_hop"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
Split = Literal["train", "dev", "test"]
_REQUIRED = ("messages", "tools", "codes", "unsolved_set")
# keys that a record may hold as JSON text, and the type of the parsed value
_JSON_KEYS: dict[str, type] = {
    "tools": list,
    "codes": dict,
    "unsolved_set": dict,
    "sub_questions": list,
    "gold_plan": list,
    "provenance": dict,
    "state": dict,
    "constraints": list,
}


def _decoded(value: Any) -> Any:
    """Parse an object or a list that a table stores as JSON text; return anything else unchanged."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            pass
    return value


class ToolDocument(BaseModel):
    """The part of a tool that the model sees. `parameters` is a JSON Schema object (draft 2020-12).

    Description and parameters may be missing, null or empty, as OpenAI and MCP allow. MCP calls them `inputSchema`.
    """

    model_config = ConfigDict(extra="allow")

    name: str
    description: str
    parameters: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _fill_missing(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        if "parameters" not in filled and "inputSchema" in filled:
            filled["parameters"] = filled.pop("inputSchema")
        filled["parameters"] = parameters_schema(filled.get("parameters"))
        if filled.get("description") is None:
            filled["description"] = ""
        return filled

    def as_openai(self) -> dict[str, Any]:
        """The OpenAI function format that chat templates and servers accept."""
        return {"type": "function", "function": self.model_dump()}


class SubQuestion(BaseModel):
    """One step of the question. `answer` is gold: it never enters a process that runs tool code."""

    id: str
    question: str
    answer: str
    tool: str
    depends_on: list[str] = Field(default_factory=list)


class GoldCall(BaseModel):
    """The call that answers one sub-question. Arguments are final values, with answers of earlier steps filled in."""

    sub_question: str
    name: str
    arguments: Annotated[dict[str, Any], BeforeValidator(_decoded)]


def _with_text(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its content as one text: text parts become paragraphs. A turn may hold only calls.

    Raises ValueError if it holds no text, because no template could render it and no answer could be found in it.
    """
    content = message.get("content")
    if isinstance(content, str):
        return message
    text, thinking = read_content(content, between="\n")
    if message.get("role") == "assistant":
        if not (content or message.get("tool_calls") or message.get("reasoning_content")):
            raise ValueError("expected content or tool_calls")
        return {**message, "content": text, **({"reasoning_content": thinking} if thinking else {})}
    if thinking or not content:
        raise ValueError(f"expected a text or text parts, got {'thinking' if thinking else 'nothing'}")
    return {**message, "content": text}


class Environment(BaseModel):
    """A question, its tools, their code, and what is still unsolved.

    `unsolved_set` maps a tool's name to the sub-answers that it must still return, in order. `solve_rate` is the share
    solved before the next turn, 0.0 at the start. `solved_set` holds what was solved before, in the same form. `state`
    is the database that the tools change, None if they only read. `constraints` limit how the question may be solved.
    """

    messages: list[Annotated[dict[str, Any], AfterValidator(_with_text)]]
    tools: list[ToolDocument]
    codes: dict[str, str]
    unsolved_set: dict[str, list[str]]
    solve_rate: float = 0.0
    answer: str | None = None
    data_source: str = ""
    split: str = ""
    id: str = ""
    scenario: Scenario | None = None
    sub_questions: list[SubQuestion] = Field(default_factory=list)
    gold_plan: list[GoldCall] = Field(default_factory=list)
    provenance: dict[str, Any] = Field(default_factory=dict)
    solved_set: dict[str, list[str]] = Field(default_factory=dict)
    state: EnvironmentState | None = None
    constraints: list[Constraint] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fill_derived(self) -> Environment:
        if not self.id:
            content = json.dumps([self.messages, self.codes], ensure_ascii=False, sort_keys=True)
            self.id = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        if self.scenario is None:
            name = self.data_source.rsplit("/", 1)[-1]
            if name in SCENARIOS:
                self.scenario = name  # type: ignore[assignment]
        return self

    @property
    def question(self) -> str:
        """The first user message."""
        return next((m["content"] for m in self.messages if m.get("role") == "user"), "")

    @property
    def question_alone(self) -> str:
        """The first user message without the list of constraints at its end."""
        return self.question.removesuffix(listed(self.constraints))

    @property
    def unsolved_count(self) -> int:
        """t in the reward: the number of unsolved sub-questions."""
        return sum(len(answers) for answers in self.unsolved_set.values())

    def openai_tools(self) -> list[dict[str, Any]]:
        return [tool.as_openai() for tool in self.tools]

    def to_record(self) -> dict[str, Any]:
        """The JSONL record: the authors' keys first, then ours."""
        return {
            "messages": self.messages,
            "tools": json_text(self.openai_tools()),
            "codes": json_text(self.codes),
            "unsolved_set": json_text(self.unsolved_set),
            "solve_rate": self.solve_rate,
            "data_source": self.data_source,
            "split": self.split,
            "answer": self.answer,
            "id": self.id,
            "scenario": self.scenario,
            "sub_questions": [item.model_dump() for item in self.sub_questions],
            "gold_plan": [item.model_dump() for item in self.gold_plan],
            "provenance": self.provenance,
            **({"state": self.state_text()} if self.state is not None else {}),
            **({"constraints": self._constraints_text()} if self.constraints else {}),
        }

    def state_text(self) -> str:
        """The record's key `state`: a JSON text, as the authors store objects whose keys vary. Raises ValueError."""
        if self.state is None:
            raise ValueError(f"{self.id} has no state")
        return json_text(self.state.model_dump(exclude_defaults=True))

    def _constraints_text(self) -> str:
        return json_text([item.model_dump(exclude_none=True) for item in self.constraints])

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str = "record") -> Environment:
        """Read a record in our format or the authors'. Raises BadInput with `where`, the key and what was expected."""
        for key in _REQUIRED:
            if key not in record:
                raise BadInput(f"{where}: key {key!r} is missing")
        values = {key: value for key, value in record.items() if value is not None or key in _REQUIRED}
        for key, kind in _JSON_KEYS.items():
            if key not in values:
                continue
            # null can be a real value of a gold argument (the tool documents decide below), and a row that is gone
            value = values[key] if key in ("gold_plan", "state") else _without_nulls(values[key])
            if isinstance(value, str):
                try:
                    value = json.loads(value)
                except ValueError as error:
                    raise BadInput(f"{where}: key {key!r}: expected a JSON string ({error})") from None
            if not isinstance(value, kind):
                raise BadInput(f"{where}: key {key!r}: expected a JSON {kind.__name__}, got {type(value).__name__}")
            values[key] = value
        values["tools"] = [tool.get("function", tool) if isinstance(tool, dict) else tool for tool in values["tools"]]
        if isinstance(values["messages"], list):
            values["messages"] = [
                {key: value for key, value in message.items() if value is not None or key == "content"}
                if isinstance(message, dict)
                else message
                for message in values["messages"]
            ]
        values["provenance"] = _without_nulls(
            {key: _decoded(value) for key, value in values.get("provenance", {}).items()}
        )
        try:
            environment = cls.model_validate(values)
            if environment.gold_plan:
                environment.gold_plan = _without_filled_arguments(environment)
            return environment
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            if place.startswith("messages.") and first["type"] == "value_error":
                place += ".content"
            raise BadInput(f"{where}: key {place!r}: {first['msg'].removeprefix('Value error, ')}") from None


def _without_nulls(value: Any) -> Any:
    """The value without keys that are null, also in nested objects."""
    if isinstance(value, list):
        return [_without_nulls(inner) if isinstance(inner, dict | list) else inner for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_nulls(inner) if isinstance(inner, dict | list) else inner
        for key, inner in value.items()
        if inner is not None
    }


def _without_filled_arguments(environment: Environment) -> list[GoldCall]:
    """The gold plan without nulls that the tools neither require nor accept, because a table added them."""
    documents = {tool.name: tool.parameters for tool in environment.tools}
    return [
        call.model_copy(
            update={"arguments": without_filled_nulls(call.arguments, documents[call.name], documents[call.name])}
        )
        if call.name in documents and None in _leaves(call.arguments)
        else call
        for call in environment.gold_plan
    ]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield value


def read_environments(path: Path | str, check_tools: bool = True) -> Iterator[Environment]:
    """Yield the environments of a JSONL or Parquet file. Raises BadInput with file and line or row.

    `check_tools`: also refuse a tool whose parameters are not a JSON Schema. The validator counts such tools instead.
    """
    for _, environment in located_environments(path, check_tools):
        yield environment


def located_environments(path: Path | str, check_tools: bool = True) -> Iterator[tuple[str, Environment]]:
    """Yield `(file and line or row, environment)`; otherwise like `read_environments`."""
    for where, record in read_records(path):
        environment = Environment.from_record(record, where)
        if check_tools:
            require_schemas(environment, where)
        yield where, environment


def require_schemas(environment: Environment, where: str) -> None:
    """Raises BadInput for a tool whose parameters are not a JSON Schema, with `where` and the tool's name."""
    for tool in environment.tools:
        if problem := schema_problem(tool.parameters):
            raise BadInput(f"{where}: key 'tools': the parameters of {tool.name!r} are not a JSON Schema: {problem}")


def write_environments(path: Path | str, environments: list[Environment]) -> int:
    """Write a complete JSONL file; returns the number of lines."""
    return write_jsonl(path, [environment.to_record() for environment in environments])
