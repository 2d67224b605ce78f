"""Read what OpenRLHF passes to a reward: the response in a query, the environment in a label. Round the rewards."""

from __future__ import annotations

import json
from functools import lru_cache

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment
from reward.scoring import check_gold

_GRID = 2**16
# number of characters that must remain of a prompt that OpenRLHF cut, so that its end can be recognized
_SHORTEST_PROMPT = 16


def on_grid(reward: float) -> float:
    """The nearest multiple of 2^-16. Sums of up to 16 such rewards are exact in float32.

    So the mean of a group of equal rewards is exactly that reward. OpenRLHF's group_norm divides by std + 1e-9, and a
    difference of one ulp would produce advantages of +-10.
    """
    return round(reward * _GRID) / _GRID


def response_of(query: str, prompt: str) -> str:
    """The response in `query` = prompt + response, even if OpenRLHF cut off the start of the prompt.

    Raises BadInput if the query does not start with an end of the prompt (the tokenizer does not round-trip its text).
    """
    if query.startswith(prompt):
        return query[len(prompt) :]
    # a cut within a multi-byte character decodes to replacement characters
    query = query.lstrip("\ufffd")
    head = query[:_SHORTEST_PROMPT]
    place = prompt.find(head)
    while place >= 0 and len(head) == _SHORTEST_PROMPT:
        if query.startswith(prompt[place:]):
            return query[len(prompt) - place :]
        place = prompt.find(head, place + 1)
    raise BadInput(
        f"the query does not start with an end of the prompt: {prompt[-64:]!r}, {query[:64]!r}; "
        "check that the tokenizer decodes the prompt to the same text"
    )


@lru_cache(maxsize=256)
def environment_of(label: str, match: str) -> Environment:
    """The environment in a label. The samples of one prompt share it; scoring does not change it. Raises BadInput."""
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
