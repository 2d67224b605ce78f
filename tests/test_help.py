"""All scripts: `--help` starts with an example that the parser accepts, and errors name the next step."""

import ast
import importlib
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from env_construction.environment.command_line import ScriptParser, first_example

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("env_construction", "reward", "serving", "train", "eval", "analysis")
SCRIPTS = sorted(
    f"{path.parent.name}.{path.stem}"
    for folder in FOLDERS
    for path in (ROOT / folder).glob("*.py")
    if any(
        isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in ast.parse(path.read_text()).body
    )
)
COMMANDS = {script: f"python -m {script}" for script in SCRIPTS} | {"train.pipeline": "bash run_all.sh"}


class Asked(Exception):
    """Raised when a script calls its parser."""


def test_scripts_are_found() -> None:
    assert {"env_construction.build", "reward.score", "train.pipeline", "eval.run", "analysis.all"} <= set(SCRIPTS)
    assert len(SCRIPTS) > 40


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_begins_with_an_example_that_the_script_accepts(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(method: str) -> Callable[..., None]:
        def stop(parser: ScriptParser, *_: object) -> None:
            raise Asked(parser, method)

        return stop

    with monkeypatch.context() as patch, pytest.raises(Asked) as asked:
        for method in ("parse_args", "parse_known_args"):
            patch.setattr(ScriptParser, method, stopping(method))
        importlib.import_module(script).main()
    parser, method = asked.value.args
    command = COMMANDS[script]
    assert parser.example.startswith(command)
    head, example, *_ = parser.format_help().splitlines()
    assert head == "example:" and example.startswith(f"  {command}")
    getattr(parser, method)(shlex.split(parser.example.removeprefix(command)))


def test_an_error_is_one_line_and_the_next_step(run_script) -> None:
    done = run_script("env_construction.validate", "a.jsonl", "--unknown")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "python -m env_construction.validate: error: unrecognized arguments: --unknown",
        "next: python -m env_construction.validate --help shows an example and every option",
    ]


def test_a_console_script_shows_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/ftrl-score"])
    text = ScriptParser("Example: python -m reward.score --out S.jsonl", "python -m reward.score").format_help()
    assert text.startswith("example:\n  ftrl-score --out S.jsonl\n\nusage: ftrl-score ")


@pytest.mark.parametrize(
    ("docstring", "example"),
    [
        ("`python -m a.b` does it.\n\nExample: python -m a.b x", "python -m a.b x"),
        (
            "Examples:\n    python -m a.bc\n    python -m a.b --n 1 \\\n        --out f\n    python -m a.b z",
            "python -m a.b --n 1 --out f",
        ),
        ("    python -m a.b                    # all of it", "python -m a.b"),
    ],
)  # fmt: skip
def test_first_example_is_the_first_command_of_a_docstring(docstring: str, example: str) -> None:
    assert first_example(docstring, "python -m a.b") == example


def test_a_script_without_an_example_raises() -> None:
    with pytest.raises(ValueError, match=r"holds no example of python -m a\.b"):
        ScriptParser("Does it.", "python -m a.b")
