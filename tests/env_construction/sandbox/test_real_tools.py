"""The 377 tools of 40 published environments: each one loads, and survives random right and wrong calls.

A short form of tests/benchmarks/real_tools.py, which makes 200 + 200 calls per tool and reports on determinism.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from env_construction.environment.schema import read_environments
from env_construction.sandbox.tool_sandbox import ToolSandbox

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT.parent / "shared/data/ftrl_test_sample.jsonl"


@pytest.fixture(scope="module")
def real_tools() -> ModuleType:
    specification = importlib.util.spec_from_file_location("real_tools", ROOT / "tests/benchmarks/real_tools.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["real_tools"] = module
    specification.loader.exec_module(module)
    return module


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample of published environments is not here")
def test_published_tools_survive_random_calls_and_return_the_same_twice(real_tools: ModuleType) -> None:
    environments = list(read_environments(SAMPLE))
    with ToolSandbox(workers=2, timeout_s=5.0) as sandbox:
        reports = real_tools.examine(environments, sandbox, conforming=3, broken=3, seed=0)
    assert len(reports) == sum(len(environment.codes) for environment in environments) == 377
    assert [report.tool for report in reports if not report.loads] == []
    assert {status for report in reports for status in report.conforming} <= {"ok", "error"}
    assert {status for report in reports for status in report.broken} <= {
        "ok",
        "error",
        "timeout",
        "memory",
        "output_limit",
    }
    assert sum(report.conforming["ok"] for report in reports) > 0.9 * 3 * 377


def test_broken_arguments_differ_from_the_schema(real_tools: ModuleType) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["city"],
    }
    drawn = [real_tools.broken_arguments(schema, ["Paris"], real_tools.generator(0, "x", i)) for i in range(200)]
    fits = [a for a in drawn if isinstance(a, dict) and isinstance(a.get("city"), str) and set(a) <= {"city", "count"}]
    assert any(not isinstance(a, dict) for a in drawn)
    assert any(isinstance(a, dict) and "city" not in a for a in drawn)
    assert any(isinstance(a, dict) and set(a) - {"city", "count"} for a in drawn)
    assert len(fits) < 150
