"""Splits that differ by domain, relation or function: what `--hold-out` names occurs in the test split only.

    --hold-out domain:medicine    a domain (repeatable, also with other kinds: everything that any rule names)
    --hold-out relation:poem.year one relation
    --hold-out relation:40%       a share of all relations, by a hash of their name
    --hold-out function:search    a class of tools

Every sub-question and every tool of the test split is held out; none of train and dev is. A tool with several relations
is held out if all of them are, and allowed in train if none is. With `--in-domain-test`, none of the test split is held
out either: the same rules then give train, dev and in-domain test in one folder, and out-of-domain test in another.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from env_construction.environment.jsonl import BadInput

KINDS = ("domain", "relation", "function")
_SHARE = re.compile(r"(\d{1,2})%")


@dataclass(frozen=True)
class Label:
    """What a sub-question asks, or what a tool offers. `group`: the name that shares are drawn by, if not `relation`.

    Relations that one tool can serve have one group, so that they stay together.
    """

    domain: str
    relation: str
    function: str
    group: str = ""


@dataclass(frozen=True)
class HoldOut:
    """`rules`: as on the command line. Without rules, every split may use everything.

    `in_domain`: no split uses what is held out.
    """

    rules: tuple[str, ...] = ()
    in_domain: bool = False

    def holds(self, label: Label) -> bool:
        """Whether a rule names the label."""
        return any(_matches(rule, label) for rule in self.rules)

    def allows(self, split: str, label: Label) -> bool:
        """Whether the split may use the label."""
        return not self.rules or self.holds(label) == (split == "test" and not self.in_domain)


@lru_cache(maxsize=65536)
def _matches(rule: str, label: Label) -> bool:
    kind, _, wanted = rule.partition(":")
    name = {"domain": label.domain, "relation": label.relation, "function": label.function}[kind]
    share = _SHARE.fullmatch(wanted)
    if not share:
        return name == wanted
    drawn = (label.group if kind == "relation" else "") or name
    digest = hashlib.blake2b(drawn.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % 100 < int(share[1])


def check_rules(rules: Sequence[str], known: Mapping[str, AbstractSet[str]]) -> None:
    """Raises BadInput for a rule of another form, of a kind that is not in `known`, or with a name not in it."""
    for rule in rules:
        kind, _, name = rule.partition(":")
        if kind not in KINDS or not name:
            raise BadInput(f"--hold-out {rule}: expected KIND:NAME or KIND:NN%, with KIND one of {', '.join(KINDS)}")
        if kind not in known:
            raise BadInput(f"--hold-out {rule}: this author can only hold out a {' or '.join(known)}")
        if not _SHARE.fullmatch(name) and name not in known[kind]:
            names = sorted(known[kind])
            shown = ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")
            raise BadInput(f"--hold-out {rule}: no {kind} of this author has that name; there are {shown}")


def difficulty(
    depends_on: Sequence[Sequence[int]], tools: int, close: int, needed: int, described: int
) -> dict[str, Any]:
    """The difficulty labels of an environment.

    `depends_on`: for each sub-question, the earlier ones that it needs. `close`: unneeded tools about an entity type of
    the question. `described`: the most facts that describe one entity.
    Returns hops, depth (sub-questions in the longest chain), tools, description_depth and, if there are unneeded tools,
    distractor_closeness: the share of them that are close.
    """
    depth: list[int] = []
    for sources in depends_on:
        depth.append(1 + max((depth[source] for source in sources), default=0))
    labels: dict[str, Any] = {
        "hops": len(depth),
        "depth": max(depth, default=0),
        "tools": tools,
        "description_depth": described,
    }
    if tools > needed:
        labels["distractor_closeness"] = round(close / (tools - needed), 3)
    return labels
