"""What models wrap around a reply never changes how it is read: thinking, fences, sentences, line endings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from env_construction.replies.reply_text import (
    FencedBlock,
    fenced_blocks,
    json_objects,
    python_code,
    said_after_thinking,
    without_thinking,
)

SOURCE = "def half(x):\n    return x // 2\n"
DOCUMENTED = (
    'def half(x):\n    """Halves.\n\n    ```\n    half(4)\n    ```\n\n'
    '```python\nhalf(6)\n```\n    """\n    return x // 2\n'
)
DRAFT = "def half(x):\n    return x / 2\n"


def fence(body: str, language: str = "python", mark: str = "```", before: str = "") -> str:
    lines = [f"{mark}{language}", *body.splitlines(), mark]
    return "\n".join([before + lines[0], *(" " * len(before) + line for line in lines[1:])]) + "\n"


@pytest.mark.parametrize(
    ("text", "said", "unclosed"),
    [
        ("<think>B?</think>A", "A", False),
        ("B?</think>A", "A", False),
        ("<think>B?", "", True),
        ("C<think>B?", "", True),
        ("<think>B?</think>C<think>D</think>A", "A", False),
        ("A", "A", False),
    ],
)
def test_thinking_ends_where_it_is_closed(text: str, said: str, unclosed: bool) -> None:
    assert said_after_thinking(text) == (said, unclosed)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('I think {"a": 0}.\n</think>\n\n{"a": 1}', '{"a": 1}'),
        ('<think>{"a": 0}</think>{"a": 1}', '{"a": 1}'),
        ('{"a": 1}<think>right?</think>', '{"a": 1}'),
        ('{"a": 1}\n<think>is it', '{"a": 1}'),
        ('<think>{"a": 0}', ""),
        ('{"a": "</think> closes <think>"}', '{"a": "</think> closes <think>"}'),
        ('draft {"a": </think>{"a": "<think>"} done', '{"a": "<think>"} done'),
    ],
)
def test_a_tag_inside_a_json_string_is_text(text: str, left: str) -> None:
    assert without_thinking(text) == left


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(alphabet='`~{}[]"\\<>/think \n\u2028é', max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab`{"), inner, max_size=3),
    max_leaves=8,
)
WRAPPINGS = (
    "{}",
    "```json\n{}\n```",
    "Here it is: ```json\n{}\n```\nDone.",
    "````\n{}\n````",
    "1. The reply\n   ```JSON\n   {}\n   ```",
    "~~~\r\n{}\r\n~~~\r\n",
    "\ufeff{}",
    "Let me think: {{draft}}\n</think>\n{}",
    "<think>```json\n{{}}\n```</think>{}",
    "I write {{braces}} first.\n{}\nThat is {{all}}.",
    '```json\n{{"a": "broken}}\n```\nNo:\n```json\n{}\n```',
)


@given(st.dictionaries(st.sampled_from(["a", "```"]), JSON_VALUES, max_size=3), st.sampled_from(WRAPPINGS))
def test_json_is_read_whatever_is_around_and_inside_it(value: dict[str, Any], wrapping: str) -> None:
    text = wrapping.replace("{{", "\0").replace("}}", "\1").replace("{}", json.dumps(value, ensure_ascii=False))
    text = text.replace("\0", "{").replace("\1", "}")
    assert json_objects(without_thinking(text))[-1] == value


def test_raw_line_breaks_are_accepted_and_invalid_json_is_reported() -> None:
    assert json_objects('{"a": "x\n```\ny"}') == [{"a": "x\n```\ny"}]
    for text, told in (('{"a": NaN}', "NaN is no JSON number"), ('{"a": {"b": 1}', "Expecting"), ("{", "Expecting")):
        [error] = json_objects(text)
        assert isinstance(error, ValueError) and told in str(error)
    assert json_objects("a set {x, y} and [1, 2]") == []
    assert isinstance(json_objects('{"a":' * 100_000)[0], ValueError)


PROGRAMS = [
    ("fence", fence(SOURCE), SOURCE),
    ("no language", fence(SOURCE, ""), SOURCE),
    ("capitals and attributes", fence(SOURCE, 'Python title="half.py"'), SOURCE),
    ("four backticks", fence(SOURCE, mark="````"), SOURCE),
    ("tildes", fence(SOURCE, mark="~~~"), SOURCE),
    ("behind a sentence", "Here it is: " + fence(SOURCE) + "Done.", SOURCE),
    ("list", "1. The code:\n   " + fence(SOURCE, before="   ").lstrip(), SOURCE),
    ("behind a list mark", "Steps\n" + fence(SOURCE, before="- "), SOURCE),
    ("list of stars, deep", "* a\n  * b\n\n" + fence(SOURCE, before="        "), SOURCE),
    ("less indented than its fence", "   ```python\n" + SOURCE + "   ```\n", SOURCE),
    ("quoted", "".join(f"> {line}\n" for line in fence(SOURCE).splitlines()), SOURCE),
    ("CRLF", fence(SOURCE).replace("\n", "\r\n"), SOURCE),
    ("BOM", "\ufeff" + fence(SOURCE), SOURCE),
    ("unclosed", "Here:\n```python\n" + SOURCE, SOURCE),
    ("closed behind the code", "```python\n" + SOURCE.rstrip() + "```\nDone.", SOURCE),
    ("inside a page", "````markdown\n# Half\n" + fence(SOURCE) + "````\n", SOURCE),
    ("fences in a docstring", fence(DOCUMENTED), DOCUMENTED),
    ("fences in a docstring, four backticks", fence(DOCUMENTED, mark="````"), DOCUMENTED),
    ("corrected", fence(DRAFT) + "Better:\n" + fence(SOURCE), SOURCE),
    ("the correction is broken off", fence(SOURCE) + "Or:\n```python\ndef half(x):\n    return (", SOURCE),
    ("first block not closed", "```python\n" + DRAFT + "\nBetter:\n" + fence(SOURCE), SOURCE),
    ("an example follows", fence(SOURCE) + "Use it:\n" + fence("print(half(4))\n") + fence("2\n", "text"), SOURCE),
    ("shell comes first", fence("pip install half\n", "bash") + fence(SOURCE), SOURCE),
    ("sentences, no fence", f"Here is the function:\n\n{SOURCE}\nIt's done by floor division.\n", SOURCE),
    ("a word behind, no fence", f"Sure!\n{SOURCE}\nDone\n", SOURCE),
    ("a sentence behind that is Python, no fence", f"Sure!\n{SOURCE}\nThat is it\n", SOURCE),
    (
        "no method is taken out of its class",
        fence("class A:\n    def half(self, x):\n        return x\n"),
        "class A:\n    def half(self, x):\n        return x\n",
    ),
    ("code block by indentation", "Sure:\n\n    def half(x):\n        return x // 2\n\nThat is all.", SOURCE),
    (
        "imports and constants, no fence", f"Code:\nimport math\nTWO = 2\n\n{SOURCE}",
        f"import math\nTWO = 2\n\n{SOURCE}",
    ),
    ("only code", SOURCE, SOURCE),
    ("no fence, fences in the docstring", f"Here:\n{DOCUMENTED}\nThat's it.", DOCUMENTED),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in PROGRAMS], ids=[case[0] for case in PROGRAMS])
def test_the_last_complete_program_is_read(text: str, expected: str) -> None:
    code = python_code(text, ("half",))
    assert code is not None and code.strip() == expected.strip()


def test_code_that_cannot_be_parsed_is_kept_for_its_error_message() -> None:
    assert python_code(fence("def half(x) return\n") + fence("print(1)\n"), ("half",)) == "def half(x) return\n"
    assert python_code("I cannot write code.", ("half",)) is None
    assert python_code(fence("    return x // 2\n"), ("half",)) == "    return x // 2\n"


@given(
    st.text(alphabet="abc .!?'\n", max_size=60),
    st.sampled_from(["", "python", "py"]),
    st.sampled_from(["```", "````", "~~~~"]),
)
def test_no_sentence_changes_the_code_in_a_fence(sentence: str, language: str, mark: str) -> None:
    assert fenced_blocks(
        f"{sentence}\n{fence(DOCUMENTED, language, mark)}{sentence}", lambda body: "return" in body
    ) == [FencedBlock(language, DOCUMENTED)]


@given(st.text(alphabet="`~ \n>-1.pyd{}\"'(:", max_size=300))
def test_no_text_makes_a_reader_raise(text: str) -> None:
    assert python_code(text) is None or isinstance(python_code(text), str)
    assert all(isinstance(value, (dict, ValueError)) for value in json_objects(text))


def test_text_full_of_fences_takes_bounded_time() -> None:
    for text in ("```python\n(\n" * 3000, '```\n"""\n' * 3000, "x = (\n" * 3000, "{" * 30_000, "> " * 30_000):
        python_code(text, ("half",))
        json_objects(text)
