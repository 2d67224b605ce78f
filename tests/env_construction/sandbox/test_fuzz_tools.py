"""A short run of fuzz_tools.py. .ci/run runs it for a minute."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def test_small_random_programs_change_no_honest_call() -> None:
    path = Path(__file__).with_name("fuzz_tools.py")
    specification = importlib.util.spec_from_file_location("fuzz_tools", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["fuzz_tools"] = module
    specification.loader.exec_module(module)
    counts = module.fuzz(seconds=3.0, seed=0)
    assert counts["proven"] > 0 and counts["unproven"] > 0 and counts["ok"] > 0
