"""A small stateful environment, written by hand: a transfer, and a question about another account."""

from __future__ import annotations

from env_construction.environment.schema import Environment, GoldCall, SubQuestion, ToolDocument
from env_construction.environment.state import EnvironmentState, StateGoal, StateRule
from env_construction.sandbox.tool_sandbox import ToolCall
from reward.tool_calls import render_call

TRANSFER = """
def transfer(state, sender, receiver, amount):
    accounts = state["account"]
    if sender not in accounts or receiver not in accounts:
        return {"error": "There is no such account."}
    if accounts[sender]["balance"] < amount:
        return {"error": "An amount above the balance cannot be transferred."}
    accounts[sender]["balance"] -= amount
    accounts[receiver]["balance"] += amount
    return {"balance of the receiver": accounts[receiver]["balance"]}
"""
OWNER = """
def owner_of(state, account):
    if account not in state["account"]:
        return {"error": "There is no such account."}
    return {"owner": state["account"][account]["owner"]}
"""
CLOSE = """
def close(state, account):
    if account not in state["account"]:
        return {"error": "There is no such account."}
    if not state["account"][account]["open"]:
        return {"error": "A closed account cannot be closed."}
    state["account"][account]["open"] = False
    return {"closed": account}
"""
TABLES = {
    "account": {
        "A1": {"owner": "Ann Moor", "balance": 500, "open": True},
        "A2": {"owner": "Ben Lund", "balance": 230, "open": True},
        "A3": {"owner": "Cleo Hart", "balance": 900, "open": False},
    }
}


def document(name: str, about: str, **properties: str) -> ToolDocument:
    schema = {name: {"type": kind} for name, kind in properties.items()}
    return ToolDocument(
        name=name,
        description=about,
        parameters={"type": "object", "properties": schema, "required": list(schema)},
    )


def bank() -> Environment:
    """Transfer 100 from A1 to A2, and say who owns A3."""
    return Environment(
        id="bank",
        messages=[
            {"role": "user", "content": "Question: Move 100 from A1 to A2. What does A2 hold then, who owns A3?"}
        ],
        tools=[
            document(
                "transfer",
                "Transfers an amount. An amount above the balance cannot be transferred.",
                sender="string",
                receiver="string",
                amount="integer",
            ),
            document("owner_of", "The owner of an account.", account="string"),
            document("close", "Closes an account. A closed account cannot be closed.", account="string"),
        ],
        codes={"transfer": TRANSFER, "owner_of": OWNER, "close": CLOSE},
        unsolved_set={"transfer": ["330"], "owner_of": ["Cleo Hart"]},
        answer="330, Cleo Hart",
        scenario="parallel_single_hop",
        sub_questions=[
            SubQuestion(id="s1", question="What does A2 hold?", answer="330", tool="transfer"),
            SubQuestion(id="s2", question="Who owns A3?", answer="Cleo Hart", tool="owner_of"),
        ],
        gold_plan=[
            GoldCall(sub_question="s1", name="transfer", arguments={"sender": "A1", "receiver": "A2", "amount": 100}),
            GoldCall(sub_question="s2", name="owner_of", arguments={"account": "A3"}),
        ],
        state=EnvironmentState(
            tables=TABLES,
            goals=[
                StateGoal(
                    sub_question="s1",
                    tool="transfer",
                    answer="330",
                    changes={"account": {"A1": {"balance": 400}, "A2": {"balance": 330}}},
                )
            ],
            rules=[
                StateRule(
                    tool="transfer",
                    text="An amount above the balance cannot be transferred.",
                    arguments={"sender": "A2", "receiver": "A1", "amount": 5000},
                ),
                StateRule(tool="close", text="A closed account cannot be closed.", arguments={"account": "A3"}),
            ],
        ),
    )


def transfer(amount: int, sender: str = "A1", receiver: str = "A2") -> str:
    return render_call(ToolCall("transfer", {"sender": sender, "receiver": receiver, "amount": amount})) + "\n"


def owner(account: str = "A3") -> str:
    return render_call(ToolCall("owner_of", {"account": account})) + "\n"


def close(account: str) -> str:
    return render_call(ToolCall("close", {"account": account})) + "\n"
