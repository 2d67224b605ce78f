"""x"""

from typing import Any


def write_package(*a: Any) -> dict[str, int]:
    return {}
