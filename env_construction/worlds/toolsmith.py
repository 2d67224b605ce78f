"""Creates tools for nodes and types: names, required parameters, arguments of gold calls, and unneeded tools."""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from datetime import date
from typing import Any, cast

from env_construction.facts.levels import Level
from env_construction.worlds.domains import Attribute, EntityType, catalog
from env_construction.worlds.graphs import Allowed, Condition, Node, loosened
from env_construction.worlds.tools import NAME, SHAPES, Param, Style, Tool, expand
from env_construction.worlds.units import UNITS
from env_construction.worlds.world import Entity, Value

WORDS = 720720
_LOOKUP_NAMES = (
    "{n}_{a}_finder", "{n}_{a}_lookup", "get_{n}_{a}", "{n}_information_retriever", "{n}_{a}_retriever", "find_{n}_{a}",
    "{n}_record_search", "{n}_details_service", "{s}_{n}_lookup", "{a}_of_{n}", "{n}_profile_reader", "query_{n}_{a}",
    "{n}_{a}_inquiry", "{n}_{a}_checker", "{s}_reader", "{n}_facts", "{n}_data_provider", "{a}_finder",
    "{d}_information_retriever", "fetch_{a}", "{n}_{a}_reporter",
)  # fmt: skip
_SEARCH_NAMES = (
    "{n}_finder", "{n}_identifier", "find_{n}", "{n}_locator", "{n}_search", "search_{n}_by_{k}", "{s}_search",
    "{n}_by_{k}_finder", "identify_{n}", "{n}_catalog_search", "{s}_query", "{k}_{n}_associator", "{n}_{k}_search",
    "{d}_{n}_finder", "lookup_{n}_by_{k}", "{n}_matcher", "{n}_name_resolver", "{k}_based_{n}_search", "{n}_directory",
)  # fmt: skip
_GENERALIZED = (
    "{n}_information_retriever",
    "{n}_details_service",
    "{n}_data_provider",
    "{n}_profile_reader",
    "{s}_{n}_reader",
    "{d}_{n}_facts",
)
_CALCULATORS = {
    "difference": ("difference_calculator", "number_gap", "subtract_numbers", "absolute_difference"),
    "sum": ("sum_calculator", "add_numbers", "total_of_two", "number_adder"),
    "product": ("multiply_numbers", "product_calculator", "number_multiplier"),
    "percentage": ("percentage_calculator", "percent_of_number", "share_calculator"),
    "days_between": ("date_difference", "days_between_dates", "day_counter", "date_gap_calculator", "elapsed_days"),
    "operation": (
        "calculator",
        "arithmetic_tool",
        "advanced_arithmetic_calculator",
        "simple_math",
        "number_operations",
        "enhanced_calculator",
    ),
}
_LOOSE_NAMES = {
    ("range", True): ("{a}_range", "{a}_between", "{a}_period"),
    ("range", False): ("{a}_range", "{a}_between", "{a}_limits"),
    ("at_least", True): ("{a}_from", "earliest_{a}", "{a}_not_before"),
    ("at_least", False): ("min_{a}", "{a}_at_least", "lowest_{a}"),
    ("at_most", True): ("{a}_until", "latest_{a}", "{a}_not_after"),
    ("at_most", False): ("max_{a}", "{a}_at_most", "highest_{a}"),
    ("any_of", False): ("{a}_options", "{a}_any_of", "accepted_{a}"),
}
ARITHMETIC = ("difference", "sum", "product", "percentage")
SELECTORS = ("information_type", "detail", "field", "attribute", "data_point", "requested_info", "aspect")


def snake(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower().replace("'", "")).strip("_")


def tool_name(tool: Tool, patterns: tuple[str, ...], rng: random.Random, taken: set[str]) -> str:
    """A name that is not in `taken`, of at most 64 characters."""
    kind = tool.type
    domain = catalog().domains[kind.domain]
    attribute = next((name for name in tool.outputs if name != NAME), kind.name)
    keys = [param.attribute for param in tool.params if param.required and param.attribute != NAME] or [kind.name]
    name = ""
    for _ in range(12):
        source = snake(rng.choice(domain.sources))
        name = rng.choice(patterns).format(
            n=snake(rng.choice(kind.nouns)), a=attribute, k=rng.choice(keys), s=source, d=kind.domain
        )
        if name not in taken and len(name) <= 64:
            return name
    return f"{name[:60]}_{len(taken)}"


def lookup_tool(
    kind: EntityType, attribute: Attribute, qualifiers: list[Condition], unit: str, level: Level, rng: random.Random
) -> Tool:
    """A tool that accepts a name (and qualifiers) and returns an attribute."""
    key = rng.choice((kind.name, f"{kind.name}_name", "name", snake(rng.choice(kind.nouns))))
    params = [
        Param(name=key, required=True, words=rng.randrange(WORDS)),
        *_condition_params(qualifiers, {key}, rng, level.verbose),
    ]
    return Tool(
        name="", function="lookup", kind=kind.name, outputs=[attribute.name], params=params, unit_choice=bool(unit),
        shape=_shape(level, rng), words=rng.randrange(WORDS),
    )  # fmt: skip


def search_tool(kind: EntityType, conditions: list[Condition], level: Level, rng: random.Random) -> Tool:
    """A tool that accepts conditions and returns a name."""
    params = _condition_params(conditions, set(), rng, level.verbose)
    params[0].required = True
    return Tool(
        name="",
        function="search",
        kind=kind.name,
        outputs=[NAME],
        params=params,
        shape=_shape(level, rng),
        words=rng.randrange(WORDS),
    )


def _shape(level: Level, rng: random.Random) -> str:
    return rng.choice(SHAPES) if level.verbose else rng.choice(SHAPES[:2])


_OPTIONAL_SHARE = 0.4
"""How often a condition of the question is an optional parameter."""


def _condition_params(conditions: list[Condition], taken: set[str], rng: random.Random, optional: bool) -> list[Param]:
    """The parameters of the conditions. With `optional`, some are optional, and the call needs them all the same."""
    params = []
    for condition in conditions:
        attribute = condition.attribute
        names = [attribute.name, snake(attribute.head), f"{attribute.owner}_{attribute.name}"]
        style: Style = condition.style
        if style != "equal":
            names = [
                pattern.format(a=attribute.name) for pattern in _LOOSE_NAMES[style, attribute.kind in ("date", "year")]
            ]
        elif attribute.kind == "entity" and attribute.generator.target != attribute.owner:
            names.append(attribute.generator.target)
        name = next(
            (name for name in rng.sample(names, len(names)) if name not in taken), f"{attribute.name}_{len(taken)}"
        )
        taken.add(name)
        words = rng.randrange(WORDS)
        required = not (optional and rng.random() < _OPTIONAL_SHARE)
        params.append(
            Param(name=name, attribute=attribute.name, style=style, required=required, asked=True, words=words)
        )
    rng.shuffle(params)
    return params


def calculator(operation: str, rng: random.Random, taken: set[str], wide: bool) -> Tool:
    """A tool for one operation or, with `wide`, for all arithmetic operations on numbers."""
    words = rng.randrange(WORDS)
    wide = wide and operation in ARITHMETIC
    names = _CALCULATORS["operation" if wide else operation]
    name = next((name for name in rng.sample(names, len(names)) if name not in taken), f"{names[0]}_{len(taken)}")
    if operation == "days_between":
        pair = rng.choice(
            (("start_date", "end_date"), ("first_date", "second_date"), ("date_a", "date_b"), ("from_date", "to_date"))
        )
        params = [Param(name=item, attribute="date", required=True, words=rng.randrange(WORDS)) for item in pair]
    elif rng.random() < 0.25:
        params = [Param(name=rng.choice(("values", "numbers", "operands")), style="range", required=True, words=words)]
    else:
        pair = rng.choice(
            (("a", "b"), ("x", "y"), ("first_number", "second_number"), ("left", "right"), ("value_a", "value_b"))
        )
        if operation == "percentage" or wide:
            pair = rng.choice((("a", "b"), ("a", "b")))
        params = [Param(name=item, required=True, words=rng.randrange(WORDS)) for item in pair]
    outputs = list(ARITHMETIC) if wide else [operation]
    return Tool(
        name=name,
        function="calculate",
        outputs=outputs,
        params=params,
        selector="operation" if wide else "",
        words=words,
    )


def tool_for(node: Node, level: Level, rng: random.Random, taken: set[str]) -> Tool:
    """The tool that answers one node."""
    if node.operation:
        return calculator(node.operation, rng, taken, False)
    assert node.kind is not None
    patterns: tuple[str, ...] = _LOOKUP_NAMES
    if node.attribute:
        tool = lookup_tool(node.kind, node.attribute, node.conditions, node.unit, level, rng)
    else:
        tool, patterns = search_tool(node.kind, node.conditions, level, rng), _SEARCH_NAMES
    tool.name = tool_name(tool, patterns, rng, taken)
    return tool


def serves(tool: Tool, node: Node) -> bool:
    """Whether the tool can answer a node: it has the same required keys, and returns the node's attribute."""
    if node.operation:
        return tool.function == "calculate" and node.operation in tool.outputs
    if tool.function == "calculate" or node.kind is None or tool.kind != node.kind.name:
        return False
    if (node.attribute.name if node.attribute else NAME) not in tool.outputs or bool(node.unit) != tool.unit_choice:
        return False
    keys: set[tuple[str, str]] = {(item.attribute.name, item.style) for item in node.conditions}
    keys |= {(NAME, "equal")} if node.subject else set()
    return keys == {(param.attribute, param.style) for param in tool.params if param.required or param.asked}


def arguments_of(tool: Tool, node: Node) -> dict[str, Any]:
    """The call of `tool` that answers `node`."""
    arguments: dict[str, Any] = {}
    if node.operation:
        operands = [_argument(value) for value in node.operands]
        arguments = (
            {tool.params[0].name: operands}
            if tool.params[0].style == "range"
            else dict(zip([param.name for param in tool.params], operands, strict=True))
        )
        return arguments | ({tool.selector: node.operation} if tool.selector else {})
    conditions = {item.attribute.name: item for item in node.conditions}
    for param in tool.params:
        if not (param.required or param.asked):
            continue
        if param.attribute == NAME:
            name = cast(Entity, node.subject).name
            arguments[param.name] = {"plain": name, "object": {"name": name}, "array": [name]}[param.form]
        else:
            arguments[param.name] = _stated(conditions[param.attribute])
    if tool.selector and node.attribute:
        arguments[tool.selector] = node.attribute.name
    if tool.unit_choice and node.unit != tool.unit_default:
        arguments["unit"] = node.unit
    return arguments


def _stated(condition: Condition) -> Any:
    """A condition as an argument."""
    if condition.style == "range":
        return {"from": _argument(condition.stated[0]), "to": _argument(condition.stated[1])}
    if condition.style == "any_of":
        return list(condition.stated)
    return _argument(condition.value if condition.style == "equal" else condition.stated)


def _argument(value: Value) -> Any:
    if isinstance(value, Entity):
        return value.name
    return value.isoformat() if isinstance(value, date) else value


def generalize(tool: Tool, needed: set[str], rng: random.Random, taken: set[str], allowed: Allowed) -> None:
    """Functional generalization: the lookup also returns other attributes, except those that are `needed` elsewhere."""
    if tool.function == "calculate":
        if (
            not tool.selector
            and tool.outputs[0] in ARITHMETIC
            and tool.params[0].name in ("a", "values", "numbers", "operands")
            and all(map(allowed.operation, ARITHMETIC))
        ):
            tool.outputs, tool.selector = list(ARITHMETIC), "operation"
        return
    if tool.function == "search" or tool.unit_choice or tool.selector:
        return
    keys = {param.attribute for param in tool.params}
    others = [
        attribute.name
        for attribute in tool.type.attributes.values()
        if allowed.attribute(attribute, "lookup")
        and attribute.id not in needed
        and attribute.name not in keys
        and attribute.name not in tool.outputs
    ]
    if others:
        tool.outputs = sorted([*tool.outputs, *rng.sample(others, min(len(others), rng.randint(1, 3)))])
        tool.selector = rng.choice(SELECTORS)
        tool.name = tool_name(tool, _GENERALIZED, rng, taken)


def change_types(tool: Tool, level: Level, rng: random.Random) -> None:
    """Parameter type generalization: the name is passed in an array or an object."""
    for param in tool.params:
        if param.required and param.attribute == NAME and tool.function == "lookup":
            draw = rng.random()
            param.form = (
                "array"
                if draw < level.array_share
                else "object"
                if draw < level.array_share + level.object_share
                else param.form
            )


class Unneeded:
    """Samples plausible tools that the question does not need. They have as many required parameters as needed ones."""

    def __init__(
        self, nodes: list[Node], tools: list[Tool], level: Level, allowed: Allowed, rng: random.Random
    ) -> None:
        self.rng, self.level, self.allowed = rng, level, allowed
        self.domains = allowed.types()
        self.kinds = list(dict.fromkeys(node.kind.name for node in nodes if node.kind))
        self.nodes = [node for node in nodes if node.kind]
        self.taken = {tool.name for tool in tools}
        self.served = {(tool.kind, output) for tool in tools for output in tool.outputs if output != NAME}
        self.mentioned: dict[str, set[str]] = {}
        for node in self.nodes:
            if node.kind:
                named = self.mentioned.setdefault(node.kind.name, set())
                named |= {item.attribute.name for item in node.conditions}
                named |= {node.attribute.name} if node.attribute else set()
        self.conditions = [
            {item.attribute.id for item in node.conditions} for node in nodes if node.function == "search"
        ]

    def draw(self) -> Tool | None:
        """Another tool, or None if this draw yields none."""
        rng = self.rng
        if rng.random() < 0.05 and self.level.calculator_share:
            tool = calculator(rng.choice((*ARITHMETIC, "days_between")), rng, self.taken, rng.random() < 0.4)
            offered = all(self.allowed.operation(operation) for operation in tool.outputs)
            return self._take(tool) if offered and not any(node.operation for node in self.nodes) else None
        close = self.kinds and rng.random() < self.level.closeness
        kind = catalog().types[rng.choice(self.kinds)] if close else self._neighbour()
        model = rng.choice(self.nodes) if self.nodes else None
        if model is None:
            return None
        describing = [
            attribute
            for attribute in kind.attributes.values()
            if attribute.clause
            and (self.level.loose_share or attribute.kind != "quantity")
            and self.allowed.attribute(attribute, model.function)
        ]
        wanted = len(model.conditions)
        if model.function == "search":
            if len(describing) < wanted:
                return None
            picked = rng.sample(describing, wanted)
            if any({attribute.id for attribute in picked} <= known for known in self.conditions):
                return None
            tool = search_tool(kind, [self._condition(attribute) for attribute in picked], self.level, rng)
            tool.name = tool_name(tool, _SEARCH_NAMES, rng, self.taken)
            return self._take(tool)
        choices = [
            a
            for a in kind.attributes.values()
            if (kind.name, a.name) not in self.served and self.allowed.attribute(a, "lookup")
        ]
        if not choices:
            return None
        attribute = rng.choice(choices)
        others = [other for other in describing if other is not attribute and other.kind not in ("entity", "quantity")]
        qualifiers = [self._condition(other) for other in rng.sample(others, min(wanted, len(others)))]
        unit = ""
        if (
            attribute.kind == "quantity"
            and UNITS[attribute.generator.unit].others
            and rng.random() < self.level.unit_share
        ):
            unit = attribute.generator.unit
        tool = lookup_tool(kind, attribute, qualifiers, unit, self.level, rng)
        tool.name = tool_name(tool, _LOOKUP_NAMES, rng, self.taken)
        return self._take(tool)

    def _neighbour(self) -> EntityType:
        """A random type, mostly from a domain of the question."""
        if self.kinds and self.rng.random() < 0.6:
            domain = catalog().types[self.rng.choice(self.kinds)].domain
            near = [kinds for kinds in self.domains if kinds[0].domain == domain]
            return self.rng.choice(near[0] if near else self.rng.choice(self.domains))
        return self.rng.choice(self.rng.choice(self.domains))

    def _condition(self, attribute: Attribute) -> Condition:
        """A placeholder condition: only its attribute and style matter."""
        if attribute.kind == "quantity" or self.rng.random() < self.level.loose_share:
            samples: dict[str, Value] = {"date": date(1900, 1, 1), "choice": "".join(attribute.generator.choices[:1])}
            return loosened(attribute, samples.get(attribute.kind, 1900), self.rng)
        return Condition(attribute, 0)

    def _take(self, tool: Tool) -> Tool:
        tool.needed = False
        self.taken.add(tool.name)
        self.served.update((tool.kind, output) for output in tool.outputs if output != NAME)
        return tool

    def expand(self, tool: Tool, total: int) -> None:
        expand_tool(tool, total, self.level, self.rng, self.mentioned.get(tool.kind, ()))


def expand_tool(tool: Tool, total: int, level: Level, rng: random.Random, near: Collection[str] = ()) -> None:
    """Parameter expansion; calculators stay unchanged. `near`: attributes that the question mentions."""
    if tool.function != "calculate" and level.kinds:
        expand(tool, total, level.kinds, level.default_share, rng, near)
