"""The wordings of tool documents, from `phrases.yaml`. Each kind has several; the tool's number selects one."""

from __future__ import annotations

from functools import lru_cache

from env_construction.worlds.names import FOLDER, load_yaml


@lru_cache(maxsize=1)
def _wordings() -> dict[str, list[str]]:
    return load_yaml(FOLDER / "phrases.yaml")


def phrases(name: str, choice: int, **known: str) -> str:
    """Wording number `choice` (modulo their count) of the kind `name`, with its slots filled in."""
    wordings = _wordings()[name]
    text = wordings[choice % len(wordings)]
    return text.format(**known) if known else text
