"""Disturb the names of tools and parameters as RoTBench does, to test if a gain depends on known names.

In: environments with a gold plan (`python -m env_construction.build`). Out: one file per noise level, and `all.jsonl`.
The environments still run. Questions, answers and tool behavior stay the same. A wrapper around each tool's code gives
it the disturbed names.

| level | one of these changes per name |
| --- | --- |
| slight | a letter inserted, deleted or replaced |
| medium | the name reversed, or random letters |
| heavy | tools exchange their names, a tool's parameters exchange theirs, or one more parameter is required |
| union | one of slight, then one of medium, and one of heavy |

Example:
    python -m env_construction.disturb --data outputs/cpu/environments/test.jsonl \\
        --out outputs/cpu/environments/disturbed

RoTBench: arXiv 2401.08326, section 3 (its fifth level, clean, is the input).
"""

from __future__ import annotations

import argparse
import ast
import copy
import keyword
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main
from env_construction.environment.schema import Environment, read_environments, write_environments

LEVELS = ("slight", "medium", "heavy", "union")
EXTRA_VALUE = "yes"
"""The only value that the extra parameter of a heavy disturbance accepts."""
Names = dict[str, str]


def _letters(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=length))


def _slightly(name: str, rng: random.Random) -> str:
    place = rng.randrange(len(name))
    kind = rng.choice(("insert", "omit", "replace") if len(name) > 2 else ("insert", "replace"))
    return name[:place] + ("" if kind == "omit" else _letters(rng, 1)) + name[place + (kind != "insert") :]


def _nonsense(name: str, rng: random.Random) -> str:
    return name[::-1] if rng.random() < 0.5 else _letters(rng, len(name))


def _renamed(
    names: list[str], change: Callable[[str, random.Random], str], rng: random.Random, taken: set[str]
) -> Names:
    """A new name for each: an identifier that is not taken."""
    found: Names = {}
    for name in names:
        new = change(name, rng)
        while not new.isidentifier() or keyword.iskeyword(new) or new == name or new in taken:
            new = _letters(rng, max(3, len(name)))
        taken.add(new)
        found[name] = new
    return found


def _exchanged(names: list[str], rng: random.Random) -> Names:
    """A random cycle through the names: each tool or parameter gets another one's name. A single name stays."""
    order = rng.sample(names, len(names))
    return dict(zip(order, [*order[1:], order[0]], strict=True)) if names else {}


def _wrapped(source: str, old: str, new: str, parameters: Names, extra: str) -> str:
    """The tool's code under its new name and its parameters' new names. Raises BadInput if it lacks the function."""
    tree = ast.parse(source)
    found = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == old), None)
    if found is None or found.args.posonlyargs or found.args.vararg or found.args.kwarg:
        raise BadInput(f"tool {old!r}: expected one function of that name with named parameters in its code")
    inner = f"original_{old}"
    signature = copy.deepcopy(found)
    for node in ast.walk(tree):  # recursive calls too
        if isinstance(node, ast.Name) and node.id == old:
            node.id = inner
    found.name = inner
    passed = []
    for argument in [*signature.args.args, *signature.args.kwonlyargs]:
        argument.annotation = None
        passed.append(f"{argument.arg}={parameters.get(argument.arg, argument.arg)}")
        argument.arg = parameters.get(argument.arg, argument.arg)
    if extra:
        signature.args.args.insert(0, ast.arg(extra))
    signature.name, signature.returns, signature.decorator_list = new, None, []
    signature.body = ast.parse(f"return {inner}({', '.join(passed)})").body
    tree.body.append(signature)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _changes(
    environment: Environment, level: str, rng: random.Random
) -> tuple[Names, dict[str, Names], dict[str, str]]:
    """New tool names, new parameter names by old tool name, and the extra parameter of each tool that gets one."""
    tools = [tool.name for tool in environment.tools]
    parameters = {tool.name: list(tool.parameters.get("properties", {})) for tool in environment.tools}
    names = {name: name for name in tools}
    renamed = {tool: {name: name for name in own} for tool, own in parameters.items()}
    extra: dict[str, str] = {}
    for change in (_slightly, _nonsense):
        if level == "union" or level == ("slight" if change is _slightly else "medium"):
            fresh = _renamed(list(names.values()), change, rng, set(names.values()))
            names = {old: fresh[now] for old, now in names.items()}
            for tool, own in renamed.items():
                fresh = _renamed(list(own.values()), change, rng, set(own.values()))
                renamed[tool] = {old: fresh[now] for old, now in own.items()}
    if level in ("heavy", "union"):
        exchange = _exchanged(list(names.values()), rng)
        names = {old: exchange[now] for old, now in names.items()}
        for tool, own in renamed.items():
            if len(own) > 1:
                swap = _exchanged(list(own.values()), rng)
                renamed[tool] = {old: swap[now] for old, now in own.items()}
            else:
                extra[tool] = _renamed(["option"], lambda _, draw: _letters(draw, 6), rng, set(own.values()))["option"]
    return names, renamed, extra


def disturbed(environment: Environment, level: str, seed: int) -> Environment:
    """The environment with names disturbed at `level`. Raises BadInput for an unknown level or an unsuitable tool."""
    if level not in LEVELS:
        raise BadInput(f"level {level!r}: expected one of {', '.join(LEVELS)}")
    if environment.state is not None:
        raise BadInput(f"{environment.id}: its tools change a database; disturb environments without the key 'state'")
    if environment.constraints:
        raise BadInput(
            f"{environment.id}: its constraints name tools; disturb environments built without --constraints"
        )
    rng = random.Random(f"{seed}:{environment.id}:{level}")
    names, renamed, extra = _changes(environment, level, rng)

    def document(tool: dict[str, Any]) -> dict[str, Any]:
        own, schema = renamed[tool["name"]], dict(tool["parameters"])
        schema["properties"] = {own[key]: value for key, value in schema.get("properties", {}).items()}
        required = [own.get(key, key) for key in schema.get("required", [])]
        if more := extra.get(tool["name"]):
            schema["properties"][more] = {"type": "string", "enum": [EXTRA_VALUE]}
            required.append(more)
        return {**tool, "name": names[tool["name"]], "parameters": {**schema, "required": required}}

    def call(gold: dict[str, Any]) -> dict[str, Any]:
        own = renamed[gold["name"]]
        arguments = {own.get(key, key): value for key, value in gold["arguments"].items()}
        if more := extra.get(gold["name"]):
            arguments[more] = EXTRA_VALUE
        return {**gold, "name": names[gold["name"]], "arguments": arguments}

    record = environment.model_dump()
    record["tools"] = [document(tool) for tool in record["tools"]]
    record["codes"] = {
        names[name]: _wrapped(source, name, names[name], renamed[name], extra.get(name, ""))
        for name, source in environment.codes.items()
    }
    record["unsolved_set"] = {names[name]: answers for name, answers in environment.unsolved_set.items()}
    record["gold_plan"] = [call(gold) for gold in record["gold_plan"]]
    record["sub_questions"] = [{**item, "tool": names[item["tool"]]} for item in record["sub_questions"]]
    record["id"] = f"{environment.id}-{level}"
    record["provenance"] = {**environment.provenance, "disturbed": level}
    return Environment.model_validate(record)


def parse_arguments() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "python -m env_construction.disturb")
    parser.add_argument("--data", type=Path, required=True, help="environments with a gold plan")
    parser.add_argument("--out", type=Path, required=True, help="output folder for <level>.jsonl")
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    parser.add_argument("--limit", type=int, help="only the first N environments")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    environments = list(read_environments(arguments.data))[: arguments.limit]
    if bare := next((item.id for item in environments if not item.gold_plan), None):
        raise BadInput(
            f"{arguments.data}: environment {bare!r} has no gold plan; build environments with env_construction.build"
        )
    everything: list[Environment] = []
    for level in arguments.levels:
        path = arguments.out / f"{level}.jsonl"
        bar = tqdm(environments, desc=level, unit="env", disable=None)
        made = [disturbed(item, level, arguments.seed) for item in bar]
        everything += made
        print(f"wrote {path}: {write_environments(path, made)} environments")
    write_environments(arguments.out / "all.jsonl", everything)
    return 0


if __name__ == "__main__":
    run_main(main)
