"""A real local HTTP server that speaks the chat completion API and authors environments about made-up islands.

It reads the prompts of `env_construction/llm/prompts` as a model would: the stage from the first line, the data from
the JSON in it. What it knows is a world of islands, harbors, keepers and ships. Misbehaviour is put on per conversation
and reply (`spoil`), or per request (`transport`): it then answers as real servers and models do when they fail.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ISLANDS = (
    "Varnholm",
    "Ostrey",
    "Quillan",
    "Brackmoor",
    "Tessaly",
    "Umberlee",
    "Norvick",
    "Galdane",
    "Hestray",
    "Pellworth",
)
HARBORS = (
    "Saltgate", "Fernmouth", "Duskhaven", "Copperquay", "Larkspit", "Wyndwater", "Ravenpier", "Oakstrand", "Mistford", "Amberlock",
)  # fmt: skip
KEEPERS = (
    "Ines Calloway", "Bram Tolliver", "Suri Adeyemi", "Jonas Whitlock", "Petra Vann", "Milo Hargreave", "Aya Lindqvist", "Tomas Brandt",
    "Leda Moncrieff", "Rufus Okafor",
)  # fmt: skip
RELATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "harbor_of_island": ("island", dict(zip(ISLANDS, HARBORS, strict=True))),
    "keeper_of_harbor": ("harbor", dict(zip(HARBORS, KEEPERS, strict=True))),
    "founding_year": ("harbor", {name: str(1611 + 17 * place) for place, name in enumerate(HARBORS)}),
    "berths_of_harbor": ("harbor", {name: f"{240 + 13 * place} berths" for place, name in enumerate(HARBORS)}),
    "birthplace_of_keeper": ("keeper", {name: f"{ISLANDS[place][:4]}stead" for place, name in enumerate(KEEPERS)}),
}
PHRASES = {
    "harbor_of_island": "the harbor of {x}",
    "keeper_of_harbor": "the keeper of {x}",
    "founding_year": "the founding year of {x}",
    "berths_of_harbor": "the number of berths of {x}",
    "birthplace_of_keeper": "the birthplace of {x}",
}
CHAINS: dict[str, list[tuple[str, str]]] = {
    "single_hop": [("harbor_of_island", "")],
    "parallel_single_hop": [("harbor_of_island", ""), ("harbor_of_island", "")],
    "multi_hop": [("harbor_of_island", ""), ("keeper_of_harbor", "q1"), ("birthplace_of_keeper", "q2")],
    "parallel_multi_hop": [("harbor_of_island", ""), ("keeper_of_harbor", "q1"), ("berths_of_harbor", "q1")],
}
"""For each scenario the relations of its sub-questions, and which earlier one each starts from."""


def plan_of(scenario: str, islands: list[str]) -> dict[str, Any]:
    """The decomposition of a question of `scenario` about some islands."""
    steps: list[dict[str, Any]] = []
    answers: dict[str, str] = {}
    phrases: dict[str, str] = {}
    free = iter(islands)
    for number, (relation, source) in enumerate(CHAINS[scenario], start=1):
        kind, table = RELATIONS[relation]
        subject = answers[source] if source else next(free)
        name = f"q{number}"
        answers[name] = table[subject]
        phrases[name] = PHRASES[relation].format(x=phrases[source] if source else subject)
        steps.append(
            {
                "id": name,
                "question": f"What is {PHRASES[relation].format(x=subject)}?",
                "answer": table[subject],
                "depends_on": [source] if source else [],
                "function": relation,
                "inputs": {kind: subject},
            }
        )
    used = {name for step in steps for name in step["depends_on"]}
    ends = [name for name in answers if name not in used]
    return {
        "question": f"What is {' and what is '.join(phrases[name] for name in ends)}?",
        "steps": steps,
        "answer": ", ".join(answers[name] for name in ends),
        "answer_rule": "list" if len(ends) > 1 else "last",
        "scenario": scenario,
    }


def questions(number: int) -> list[dict[str, str]]:
    """Different questions, the scenarios taking turns."""
    made = []
    for index in range(number):
        scenario = list(CHAINS)[index % 4]
        islands = [ISLANDS[(index // 4) % 10], ISLANDS[(index // 4 + 3) % 10]]
        made.append({"question": str(plan_of(scenario, islands)["question"]), "scenario": scenario})
    return made


def plan_for_question(question: str) -> dict[str, Any]:
    """Finds the plan whose question this is, whatever stands around it."""
    islands = sorted((name for name in ISLANDS if name in question), key=question.index)
    for scenario in CHAINS:
        if CHAINS[scenario].count(("harbor_of_island", "")) == len(islands):
            plan = plan_of(scenario, islands)
            if str(plan["question"]).rstrip("?") in question:
                return plan
    raise AssertionError(f"no plan for {question!r}")


def source_of(document: dict[str, Any]) -> str:
    """A lookup over the world's table; a tool that no relation stands behind looks up tides."""
    name = document["name"]
    kind, table = RELATIONS.get(
        name, ("place", {place: f"tide {index} of the calm sea" for index, place in enumerate("ABCDEF")})
    )
    parameters = [kind] + [f"{other}=None" for other in document["parameters"]["properties"] if other != kind]
    return (
        f"def {name}({', '.join(parameters)}):\n"
        f"    table = {table!r}\n"
        f"    if not isinstance({kind}, str) or {kind} not in table:\n"
        f'        return {{"error": "unknown {kind}"}}\n'
        f'    return {{"value": table[{kind}]}}\n'
    )


def _json_lines(prompt: str) -> list[Any]:
    found = []
    for line in prompt.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [value for value in found if isinstance(value, (dict, list, str))]


def author_reply(prompt: str) -> str:
    """What a good model answers to the first message of a stage."""
    stage = int(prompt[len("Stage ")])
    data = _json_lines(prompt)
    if stage == 1:
        if data and isinstance(data[0], str) and "The question, as JSON text" in prompt:
            return json.dumps(plan_for_question(data[0]))
        initial = re.search(r"begins with ([A-Z])", prompt)
        scenario = re.search(r"Scenario: (\w+)", prompt)
        assert initial and scenario
        start = (ord(initial[1]) - ord("A")) % 10
        return json.dumps(plan_of(scenario[1], [ISLANDS[start], ISLANDS[(start + 3) % 10]]))
    if stage == 2:
        step = next(value for value in data if isinstance(value, dict))
        [kind] = step["inputs"]
        document = {
            "name": step["function"],
            "description": f"Looks up the {step['function'].replace('_', ' ')}.",
            "parameters": {
                "type": "object",
                "properties": {kind: {"type": "string", "description": f"Name of the {kind}."}},
                "required": [kind],
            },
        }
        return "Here it is:\n```json\n" + json.dumps({"document": document, "arguments": step["inputs"]}) + "\n```"
    if stage == 3:
        return json.dumps(next(value for value in data if isinstance(value, dict)))
    if stage == 4:
        toolset = next(value for value in data if isinstance(value, dict))
        more = re.search(r"Add (\d+) tool", prompt)
        for number in range(int(more[1]) if more else 0):
            properties = {"place": {"type": "string", "description": "Name of a place."}}
            parameters = {"type": "object", "properties": properties, "required": ["place"]}
            document = {
                "name": f"tide_{number}",
                "description": "Looks up the tide of a place.",
                "parameters": parameters,
            }
            toolset["tools"].append(document)
        if "parameter_expansion" in prompt.splitlines()[0]:
            for tool in toolset["tools"]:
                tool["parameters"]["properties"]["language"] = {"type": "string", "enum": ["en", "de"], "default": "en"}
        return "<think>Which one?</think>" + json.dumps(toolset)
    document = next(value for value in data if isinstance(value, dict))
    return f"```python\n{source_of(document)}```"


Spoiler = Callable[[str], str | dict[str, Any]]
"""From the good reply to what is sent: another text, or fields of the message and `finish_reason`."""


class ScriptedAuthorServer:
    """`spoil(marker, stage, *spoilers)`: replies 1, 2, ... of each conversation of a stage whose first message holds
    `marker` are spoilt by the spoilers in turn; "stage" is its number. `transport(number)`: (status, headers, seconds
    to hang) or None for a request. `mangle(number, payload)`: what is sent in place of an answer, an object or
    bytes.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.transport: Callable[[int], tuple[int, dict[str, str], float] | None] = lambda number: None
        self.mangle: Callable[[int, dict[str, Any]], Any] = lambda number, payload: payload
        self.refuse_fields: tuple[str, ...] = ()
        self.refusal = ""
        self.under_way = self.most_under_way = 0
        self.delay_s = 0.0
        self._spoilers: list[tuple[str, int, tuple[Spoiler | None, ...]]] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    number = len(outer.bodies)
                    outer.bodies.append(body)
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                    outer.under_way += 1
                    outer.most_under_way = max(outer.most_under_way, outer.under_way)
                try:
                    status, headers, payload = outer._answer(body, number)
                finally:
                    with outer._lock:
                        outer.under_way -= 1
                sent = outer.mangle(number, payload)
                data = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
                try:
                    self.send_response(status)
                    for name, value in {**headers, "Content-Type": "application/json"}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # the client has given up waiting

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def spoil(self, marker: str, stage: int, *spoilers: Spoiler | None) -> None:
        self._spoilers.append((marker, stage, spoilers))

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _answer(self, body: dict[str, Any], number: int) -> tuple[int, dict[str, str], dict[str, Any]]:
        trouble = self.transport(number)
        if trouble:
            status, headers, hang_s = trouble
            time.sleep(hang_s)
            return status, headers, {"error": {"message": "trouble", "type": "error", "code": status}}
        time.sleep(self.delay_s)
        if self.refusal:
            return 400, {}, {"error": {"message": self.refusal, "type": "invalid_request_error", "code": 400}}
        for name in self.refuse_fields:
            if name in body:
                hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                text = f"Unsupported parameter: '{name}' is not supported with this model.{hint}"
                return 400, {}, {"error": {"message": text, "type": "invalid_request_error", "code": 400}}
        message = self._message(body["messages"])
        finish = message.pop("finish_reason", "stop")
        return 200, {}, {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200},
        }  # fmt: skip

    def _message(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        first = messages[1]["content"]
        turn = sum(message["role"] == "assistant" for message in messages)
        reply: str | dict[str, Any] = author_reply(first)
        for marker, stage, spoilers in self._spoilers:
            spoiler = spoilers[turn] if turn < len(spoilers) else None
            if spoiler and marker in first and first.startswith(f"Stage {stage}") and isinstance(reply, str):
                reply = spoiler(reply)
        return {"content": reply} if isinstance(reply, str) else dict(reply)
