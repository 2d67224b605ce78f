"""What a tool returned reads the same wherever it ran: the pool runner's quick writer is json.dumps."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from env_construction.sandbox.output import dumps_unmarked, render
from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox

KEYS = st.text() | st.integers() | st.floats() | st.booleans() | st.none()
VALUES = st.recursive(
    KEYS | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=16,
)


@given(VALUES)
def test_the_quick_writer_writes_what_json_dumps_writes(value: Any) -> None:
    assert dumps_unmarked(value) == json.dumps(value, ensure_ascii=False)
    assert render(value, dumps_unmarked) == render(value)


@pytest.mark.parametrize("value", [{"a": {1}}, [object], {(1, 2): 3}, {b"k": 1}])
def test_what_is_no_json_fails_in_the_same_words(value: Any) -> None:
    with pytest.raises(TypeError) as quick:
        dumps_unmarked(value)
    with pytest.raises(TypeError) as usual:
        json.dumps(value, ensure_ascii=False)
    assert str(quick.value) == str(usual.value)


def test_a_value_that_holds_itself_is_the_published_error() -> None:
    source = "def loop():\n    rows = []\n    rows.append(rows)\n    return rows\n"
    with ToolSandbox() as sandbox:
        [result] = sandbox.run({"loop": source}, [ToolCall("loop", {})])
    assert (result.status, result.output) == ("error", "an error occured when call loop: Circular reference detected")
