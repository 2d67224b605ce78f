"""Fixtures of the tau-bench tests: two synthetic domains in the authors' layout, and a server that plays the user."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.local_server import Asked, LocalServer, Said

CANCEL = """from typing import Any, Dict


def cancel_booking(data: Dict[str, Any], booking: str) -> str:
    import json
    if booking not in data["bookings"]:
        return "Error: no such booking"
    entry = data["bookings"][booking]
    entry["status"] = "cancelled"
    entry["history"].append({"refund": -entry["price"]})
    data["seats"]["free"] += entry["seats"]
    return json.dumps(entry)
"""
READ = """def read_booking(data, booking):
    return data["bookings"][booking]
"""
MOVE = """def move_order(data, order, city, express=False):
    if express:
        raise ValueError("express is sold out")
    data["orders"][order]["city"] = city
    return "Order %s goes to %s" % (order, city)
"""
LOOP = """def loop(data, n):
    import os
    os._exit(int(n))
"""
HAND_OVER = """def transfer_to_human_agents(data, summary):
    return "Transfer successful"
"""
AIRLINE: dict[str, Any] = {
    "bookings": {
        "B1": {"status": "open", "price": 1200, "seats": 2, "history": []},
        "B2": {"status": "open", "price": 99.5, "seats": 1, "history": []},
    },
    "seats": {"free": 3},
}
RETAIL: dict[str, Any] = {"orders": {"#7": {"city": "Lima"}, "#8": {"city": "Accra"}}}


def document(name: str, **parameters: str) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}


def action(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": "0", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def task(domain: str, instruction: str, actions: list[dict[str, Any]], *outputs: str) -> dict[str, Any]:
    return {
        "instruction": instruction,
        "actions": actions,
        "outputs": list(outputs),
        "data_source": f"tau-bench/{domain}",
    }


TASKS = [
    task("airline", "Cancel B1.", [action("cancel_booking", booking="B1")]),
    task("airline", "What did B1 cost?", [action("read_booking", booking="B1")], "1200", "Two seats"),
    task("airline", "Ask for a human.", [action("transfer_to_human_agents", summary="x")]),
    task(
        "airline",
        "Cancel B2 and B1; what comes back?",
        [action("cancel_booking", booking="B2"), action("cancel_booking", booking="B1")],
        "1299.5",
    ),
    task("retail", "Send #7 to Suva.", [action("move_order", order="#7", city="Suva")]),
    task(
        "retail",
        "Send #8 express to Suva, else ask for a human.",
        [
            action("move_order", order="#8", city="Suva", express=True),
            action("transfer_to_human_agents", summary="express"),
        ],
    ),
]


@pytest.fixture
def tau_folder(tmp_path: Path) -> Path:
    """Four tasks of `airline` and two of `retail`, each domain with its database and tools."""
    folder = tmp_path / "published"
    domains: list[tuple[str, dict[str, Any], dict[str, str], list[dict[str, Any]]]] = [
        (
            "airline",
            AIRLINE,
            {
                "cancel_booking": CANCEL,
                "read_booking": READ,
                "loop": LOOP,
                "transfer_to_human_agents": HAND_OVER,
            },
            [
                document("cancel_booking", booking="string"),
                document("read_booking", booking="string"),
                document("transfer_to_human_agents", summary="string"),
            ],
        ),
        (
            "retail",
            RETAIL,
            {"move_order": MOVE, "transfer_to_human_agents": HAND_OVER},
            [
                document("move_order", order="string", city="string"),
                document("transfer_to_human_agents", summary="string"),
            ],
        ),
    ]
    for name, database, codes, tools in domains:
        place = folder / "tau-bench" / name
        place.mkdir(parents=True)
        for table, rows in database.items():
            (place / f"{table}.json").write_text(json.dumps(rows))
        (place / "codes.json").write_text(json.dumps(codes))
        (place / "tools.json").write_text(json.dumps(tools))
        (place / "wiki.md").write_text(f"# The rules of {name}\n")
    lines = "".join(json.dumps(record) + "\n" for record in TASKS)
    (folder / "tau-bench.jsonl").write_text(lines, encoding="utf-8")
    return folder


class UserServer(LocalServer):
    """An OpenAI-compatible server; `line(body)` returns the user's line, a status and an error, or raw bytes."""

    def __init__(self) -> None:
        self.line: Callable[[dict[str, Any]], str | tuple[int, str] | bytes] = lambda body: "###STOP###"
        super().__init__()
        self.spec = f"customer@{self.url}"

    def reply(self, asked: Asked) -> Said:
        said = self.line(asked.body)
        if isinstance(said, tuple):
            return said[0], _error(said[1]), {}
        return 200, said if isinstance(said, bytes) else _completion(said), {}


def _completion(text: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "customer", "choices": [choice]}


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error"}}


@pytest.fixture
def user_server() -> Iterator[UserServer]:
    with UserServer() as opened:
        yield opened
