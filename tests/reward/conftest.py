"""A sandbox for all reward tests: a real one, with one process."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from env_construction.sandbox.tool_sandbox import ToolSandbox

# no timed tests: a slow machine is not a failure
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def sandbox() -> Iterator[ToolSandbox]:
    with ToolSandbox(workers=1) as opened:
        yield opened
