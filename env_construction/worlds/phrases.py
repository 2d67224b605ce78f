"""The wordings of tool documents: `phrases.yaml`, several of each kind; a tool's own number chooses among them."""

from __future__ import annotations

from functools import lru_cache

from env_construction.worlds.names import FOLDER, load_yaml


@lru_cache(maxsize=1)
def _wordings() -> dict[str, list[str]]:
    return load_yaml(FOLDER / "phrases.yaml")


def phrases(name: str, choice: int, **known: str) -> str:
    """One wording of a kind, filled in."""
    wordings = _wordings()[name]
    text = wordings[choice % len(wordings)]
    return text.format(**known) if known else text
