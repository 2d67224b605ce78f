"""The simulated user of tau-bench: a customer with an instruction, who talks to the agent until the goal is reached.

The spec (--user-model) selects the user:

    MODEL@BASE_URL    an OpenAI-compatible model at temperature 0, up to 512 tokens per line (key from OPENAI_API_KEY)
    replay:FILE       the lines that an earlier run recorded (`user_turns` in its result rows), without a model
    scripted          says the full instruction first and stops at the first reply: for tests of the code and for the
                      oracle; its scores are not comparable with any others

The prompt gives the instruction and the rules of tau-bench's user in this project's words. For numbers with the
published wording, pass --user-prompt with a file that contains `{instruction}`. The agent does not see the thinking of
the user's model.

Source: paper/README.md, "Evaluation" (the user is gpt-4o-2024-08-06 at temperature 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from env_construction.environment.jsonl import BadInput, read_jsonl, read_text
from eval.suites.games import GameFault, conversation
from reward.tool_calls import parse_turn
from train.policies.games import turn_seed
from train.policies.identity import policy_identity
from train.policies.interface import Policy, PolicyRequest, recorded_trial
from train.policies.specs import load_policy

STOP = "###STOP###"
GREETING = "Hi! How can I help you today?"
LINE_TOKENS = 512
PROMPT = f"""You play a customer who talks to a service agent.

Your instruction: {{instruction}}

How to play:
- Write one line at a time: what the customer says next.
- Never tell the whole instruction at once; tell what the present step needs.
- Invent nothing. Where the agent asks for something that the instruction does not have, such as an order number, \
say that you do not know or do not have it.
- Say things in your own words, not in those of the instruction.
- Talk naturally, and stay the person that the instruction describes.
- Once the goal of the instruction is reached, write {STOP} and nothing else: that ends the conversation."""


class UserLeft(Exception):
    """The agent's message is longer than the user's model can read: the agent's failure."""


class SimulatedUser(Protocol):
    """Says the user's next line."""

    name: str

    def reply(self, case_id: str, trial: int, instruction: str, lines: Sequence[str]) -> str:
        """`lines`: agent and user alternate; the agent is first (its greeting) and last. Raises GameFault, UserLeft."""


class ModelUser:
    """A language model that plays the user."""

    def __init__(self, policy: Policy, seed: int = 0, prompt: str = PROMPT) -> None:
        self.name = policy.name
        self._policy, self._seed, self._prompt = policy, seed, prompt

    def reply(self, case_id: str, trial: int, instruction: str, lines: Sequence[str]) -> str:
        messages = [{"role": "system", "content": self._prompt.replace("{instruction}", instruction)}]
        messages += [
            {"role": ("user", "assistant")[place % 2], "content": line} for place, line in enumerate(lines)
        ]  # for the user's model, the agent has the role of the user
        turn = len(lines) // 2
        seed = turn_seed(self._seed, f"user:{case_id}", trial, turn)
        request = PolicyRequest(conversation(case_id, messages), case_id, trial, turn, seed)
        [generation] = self._policy.generate([request])
        if generation.fault:
            raise GameFault(f"the simulated user failed: {generation.fault}")
        if generation.too_long:
            raise UserLeft
        said = parse_turn(generation.text, "strict").content
        if not said:
            raise GameFault("the simulated user said nothing")
        return said


class ReplayUser:
    """The lines of an earlier run, by case and trial."""

    def __init__(self, path: str) -> None:
        self.name = f"replay:{path}"
        self._lines: dict[tuple[str, int], list[str]] = {}
        for number, row in read_jsonl(path, required=("id", "user_turns")):
            lines = row["user_turns"]
            if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                raise BadInput(f"{path}:{number}: key 'user_turns': expected a list of strings")
            self._lines[str(row["id"]), recorded_trial(row, f"{path}:{number}")] = lines

    def reply(self, case_id: str, trial: int, instruction: str, lines: Sequence[str]) -> str:
        recorded, turn = self._lines.get((case_id, trial), []), len(lines) // 2
        if turn >= len(recorded):
            raise GameFault(f"only {len(recorded)} user lines are recorded for {case_id!r}, trial {trial}")
        return recorded[turn]


class ScriptedUser:
    """Says the full instruction at once and stops at the first reply."""

    name = "scripted"

    def reply(self, case_id: str, trial: int, instruction: str, lines: Sequence[str]) -> str:
        return instruction if len(lines) == 1 else STOP


def load_user(spec: str, *, seed: int = 0, prompt: str = PROMPT, concurrency: int = 32) -> SimulatedUser:
    """The user that a spec names. Raises BadInput."""
    if spec == "scripted":
        return ScriptedUser()
    if spec.startswith("replay:"):
        return ReplayUser(spec.removeprefix("replay:"))
    if "@" not in spec:
        raise BadInput(f"--user-model {spec!r}: expected MODEL@BASE_URL, replay:FILE or scripted")
    policy = load_policy(
        f"openai:{spec.removeprefix('openai:')}", temperature=0.0, max_new_tokens=LINE_TOKENS, concurrency=concurrency
    )
    return ModelUser(policy, seed, prompt)


def user_identity(spec: str) -> dict[str, Any]:
    """The identity of the user by content (train.policies.identity)."""
    of_server = "@" in spec and not spec.startswith(("openai:", "replay:"))
    return policy_identity(f"openai:{spec}" if of_server else spec)


def read_prompt(path: str | None) -> str:
    """The user's prompt, from a file if `path` is given. Raises BadInput."""
    if path is None:
        return PROMPT
    prompt = read_text(path)
    if "{instruction}" not in prompt:
        raise BadInput(f"{path}: expected a prompt that contains {{instruction}}")
    return prompt
