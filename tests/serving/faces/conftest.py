"""Environment files for the tests of HTTP and MCP."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from env_construction.environment.schema import Environment, write_environments
from tests.conftest import small_environments
from tests.serving.conftest import served


@pytest.fixture
def data(played: list[Environment], tmp_path: Path) -> Path:
    path = tmp_path / "environments.jsonl"
    write_environments(path, list({item.id: item for item in played}.values()))
    return path


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one server for HTTP and MCP, for the tests of a module that need no settings of their own."""
    path = tmp_path_factory.mktemp("served") / "environments.jsonl"
    write_environments(path, small_environments())
    with served(path, "--mcp") as address:
        yield address


@pytest.fixture
def slow_data(environments: list[Environment], tmp_path: Path) -> Path:
    """One environment with a tool that takes three seconds."""
    slow = (
        environments[0].codes["capital_of"].replace("    capitals", "    import time\n    time.sleep(3)\n    capitals")
    )
    path = tmp_path / "slow.jsonl"
    write_environments(
        path, [environments[0].model_copy(update={"codes": {**environments[0].codes, "capital_of": slow}})]
    )
    return path
