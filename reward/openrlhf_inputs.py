"""What OpenRLHF hands to a reward, read: the response in a query, the environment in a label, rewards on a grid that
sums exactly.
"""

from __future__ import annotations

import json
from functools import lru_cache

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment
from reward.scoring import check_gold

_GRID = 2**16
# characters that must be left of a prompt that OpenRLHF cut, for its end to be recognized
_SHORTEST_PROMPT = 16


def on_grid(reward: float) -> float:
    """The nearest multiple of 2^-16. Sums of up to 16 such rewards are exact in float32, so that a group of equal
    rewards has exactly its own mean: OpenRLHF's group_norm divides by std + 1e-9, and one ulp there makes advantages of
    +-10.
    """
    return round(reward * _GRID) / _GRID


def response_of(query: str, prompt: str) -> str:
    """The response in `query` = prompt + response, also when OpenRLHF cut the prompt's left end off.

    Raises BadInput if no end of the prompt begins the query (a tokenizer that does not decode to what it was given).
    """
    if query.startswith(prompt):
        return query[len(prompt) :]
    # a cut inside a character of several bytes decodes to replacement characters
    query = query.lstrip("\ufffd")
    head = query[:_SHORTEST_PROMPT]
    place = prompt.find(head)
    while place >= 0 and len(head) == _SHORTEST_PROMPT:
        if query.startswith(prompt[place:]):
            return query[len(prompt) - place :]
        place = prompt.find(head, place + 1)
    raise BadInput(f"no end of the prompt begins the query: {prompt[-64:]!r}, {query[:64]!r}")


@lru_cache(maxsize=256)
def environment_of(label: str, match: str) -> Environment:
    """The environment in a label (the samples of one prompt share it). Raises BadInput; never changed by scoring."""
    try:
        record = json.loads(label)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"label: expected a JSON object ({error})") from None
    if not isinstance(record, dict):
        raise BadInput(f"label: expected a JSON object, got {type(record).__name__}")
    environment = Environment.from_record({"messages": [], "tools": [], **record}, where="label")
    if match == "strict":
        check_gold(environment, where="label")
    return environment
