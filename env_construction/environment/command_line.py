"""A script's command line. `--help` starts with an example from the docstring, and an error says where to look."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import NoReturn


class ScriptParser(argparse.ArgumentParser):
    """An argument parser whose help starts with an example.

    `command` is how the script is called, such as "python -m reward.score". The docstring must hold an example of it.
    """

    def __init__(self, docstring: str | None, command: str, allow_abbrev: bool = True) -> None:
        called = Path(sys.argv[0]).name
        prog = called if called.startswith("ftrl-") else command
        super().__init__(
            prog=prog,
            description=docstring,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=allow_abbrev,
        )
        self.example = first_example(docstring or "", command).replace(command, prog, 1)

    def format_help(self) -> str:
        lines = textwrap.wrap(self.example, 110, break_long_words=False, break_on_hyphens=False)
        return "example:\n  " + " \\\n      ".join(lines) + "\n\n" + super().format_help()

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\nnext: {self.prog} --help shows an example and every option\n")


def at_least_one(text: str) -> int:
    """The whole number that a flag gives, as argparse's `type`. Raises ArgumentTypeError below 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def first_example(docstring: str, command: str) -> str:
    """The first command in a docstring that starts with `command`, joined with its continuation lines."""
    lines = iter(docstring.splitlines())
    for line in lines:
        _, found, rest = line.partition(command)
        if found and rest[:1] in ("", " "):
            while rest.endswith("\\"):
                rest = rest[:-1] + next(lines, "")
            return " ".join((command + rest.split("  #")[0]).split())
    raise ValueError(f"the docstring holds no example of {command}; add one")
