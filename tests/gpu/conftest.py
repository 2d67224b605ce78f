"""These tests need an NVIDIA GPU and are skipped where torch sees none. Logs of their runs are in `records/`."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs a GPU: torch.cuda.is_available() is False"))
