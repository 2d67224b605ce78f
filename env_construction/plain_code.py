"""Prove from its source that a tool cannot leave a trace in the interpreter that runs it.

A forked process per call isolates anything but costs a millisecond or two; nearly all real tools need none of it: they are
functions over strings, numbers, lists, dictionaries and dates. `why_wild(tree)` returns None for those ("plain" code), and a
reason for all others ("wild" code, which gets a process of its own). The proof is by allow-list, so that whatever is
not known to be harmless is wild:

- syntax: no classes, no coroutines, no `with`, no star imports, no generators that catch exceptions (they could run
  later, when they are collected);
- names: no dunder names, and of the builtins only those that neither reflect nor reach outside;
- attributes: read only, never set, and only public names of the plain types below (so no `__globals__`, no `gi_frame`, no
  `tb_frame`); `format` only on a literal whose fields look at no attributes;
- modules: only those below, only as `module.attribute` with an attribute that is listed, so that a module object is
  never a value; no listed attribute is a module or can be changed.

Plain code can still loop, recurse and fill memory: limits take care of that. `random` has shared state; code that
imports it is plain, and `uses_random` tells the runner to seed it before each call.
"""

from __future__ import annotations

import ast
import builtins
import collections
import datetime
import decimal
import fractions
import importlib
import re
import string
from typing import Any

SYNTAX = """
Module Expr FunctionDef arguments arg Return Delete Assign AugAssign AnnAssign For While If Raise Try Assert Import
ImportFrom alias Global Nonlocal Pass Break Continue BoolOp NamedExpr BinOp UnaryOp Lambda IfExp Dict Set ListComp SetComp
DictComp GeneratorExp Yield YieldFrom Compare Call keyword FormattedValue JoinedStr Constant Attribute Subscript Starred
Name List Tuple Slice comprehension ExceptHandler Load Store Del And Or Add Sub Mult MatMult Div Mod Pow LShift RShift
BitOr BitXor BitAnd FloorDiv Invert Not UAdd USub Eq NotEq Lt LtE Gt GtE Is IsNot In NotIn
Match match_case MatchValue MatchSingleton MatchSequence MatchMapping MatchStar MatchAs MatchOr
"""
NODES = frozenset(getattr(ast, name) for name in SYNTAX.split())

HARMLESS = """
abs all any ascii bin bool bytearray bytes callable chr complex dict divmod enumerate filter float format frozenset hasattr
hash hex int isinstance issubclass iter len list map max min next object oct ord pow print range repr reversed round set
slice sorted str sum tuple zip True False None NotImplemented Ellipsis
"""
BUILTINS = frozenset(HARMLESS.split()) | {
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
}
WILD_BUILTINS = frozenset(vars(builtins)) - BUILTINS
"""`type` is wild as a value, but `type(x)` with one argument is plain."""

PLAIN_TYPES: tuple[Any, ...] = (
    str, bytes, bytearray, int, float, complex, bool, list, tuple, dict, set, frozenset, range, slice,
    type({}.keys()), type({}.values()), type({}.items()),
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone,
    re.Match, re.Pattern, decimal.Decimal, fractions.Fraction,
    collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque,
)  # fmt: skip
ATTRIBUTES = (
    {name for kind in PLAIN_TYPES for name in dir(kind) if not name.startswith("_")}
    | {"args", "digest", "hexdigest", "ratio", "msg", "pos", "lineno", "colno", "__name__"}
) - {"format", "format_map"}
"""`__name__` of a function, class or exception type is a string."""

MODULES: dict[str, frozenset[str]] = {
    module: frozenset(names.split())
    for module, names in {
        "math": " ".join(name for name in dir(importlib.import_module("math")) if not name.startswith("_")),
        "cmath": " ".join(name for name in dir(importlib.import_module("cmath")) if not name.startswith("_")),
        "json": "dumps loads JSONDecodeError",
        "re": "compile match search fullmatch findall finditer sub subn split escape error A ASCII I IGNORECASE M MULTILINE"
        " S DOTALL X VERBOSE U UNICODE",
        "datetime": "datetime date time timedelta timezone tzinfo UTC MINYEAR MAXYEAR",
        "time": "time sleep strftime strptime localtime gmtime mktime asctime ctime perf_counter monotonic process_time",
        "random": "random randint randrange choice choices sample shuffle uniform gauss normalvariate triangular expovariate"
        " betavariate seed getrandbits",
        "collections": "Counter OrderedDict defaultdict deque namedtuple ChainMap",
        "itertools": " ".join(name for name in dir(importlib.import_module("itertools")) if not name.startswith("_")),
        "functools": "reduce partial lru_cache cache cmp_to_key",
        "operator": "add sub mul truediv floordiv mod pow neg pos abs eq ne lt le gt ge and_ or_ not_ xor invert lshift rshift"
        " concat contains countOf indexOf getitem itemgetter truth is_ is_not",
        "statistics": "mean fmean geometric_mean harmonic_mean median median_low median_high median_grouped mode multimode"
        " pstdev pvariance stdev variance quantiles correlation covariance StatisticsError",
        "string": "ascii_letters ascii_lowercase ascii_uppercase digits hexdigits octdigits punctuation printable whitespace"
        " capwords",
        "decimal": "Decimal ROUND_HALF_UP ROUND_HALF_EVEN ROUND_HALF_DOWN ROUND_UP ROUND_DOWN ROUND_CEILING ROUND_FLOOR"
        " InvalidOperation DivisionByZero DecimalException",
        "fractions": "Fraction",
        "calendar": "monthrange isleap leapdays weekday timegm",
        "copy": "copy deepcopy",
        "heapq": "heappush heappop heapify heappushpop heapreplace nlargest nsmallest merge",
        "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
        "hashlib": "md5 sha1 sha224 sha256 sha384 sha512 blake2b blake2s",
        "base64": "b64encode b64decode urlsafe_b64encode urlsafe_b64decode b32encode b32decode b16encode b16decode",
        "textwrap": "dedent fill wrap indent shorten",
        "unicodedata": "normalize category name combining decimal digit numeric",
        "difflib": "get_close_matches SequenceMatcher",
        "html": "escape unescape",
        "urllib.parse": "quote unquote quote_plus unquote_plus urlencode",
        "zoneinfo": "ZoneInfo ZoneInfoNotFoundError",
        "typing": "Any Optional Union List Dict Tuple Set FrozenSet Callable Iterable Iterator Sequence Mapping Literal",
        "__future__": "annotations",
    }.items()
}


class _Wild(Exception):
    """The source is not plain; the message says why."""


def why_wild(tree: ast.Module) -> str | None:
    """None if the code is plain, else the first reason against it."""
    nodes = list(ast.walk(tree))
    try:
        modules = _imported_modules(nodes)
        called_type = {id(n.func) for n in nodes if isinstance(n, ast.Call) and len(n.args) == 1 and not n.keywords}
        bases = {id(node.value): node for node in nodes if isinstance(node, ast.Attribute)}
        for node in nodes:
            if type(node) not in NODES:
                raise _Wild(f"{type(node).__name__}")
            if isinstance(node, ast.Name):
                _check_name(node, modules, bases, called_type)
            elif isinstance(node, ast.Attribute):
                _check_attribute(node, modules)
            elif isinstance(node, (ast.FunctionDef, ast.Lambda)):
                _check_function(node)
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id in modules:
                raise _Wild(f"module {node.target.id} as a value")
            elif isinstance(node, (ast.arg, ast.keyword)):
                _check_identifier(node.arg)
            elif isinstance(node, (ast.Global, ast.Nonlocal)):
                for name in node.names:
                    _check_identifier(name)
            elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
                _check_identifier(node.name)
            elif isinstance(node, ast.MatchMapping):
                _check_identifier(node.rest)
    except _Wild as wild:
        return str(wild)
    return None


def uses_random(tree: ast.Module) -> bool:
    """Whether the code imports `random`, whose state is shared."""
    return any(
        (isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "random")
        for node in ast.walk(tree)
    )


def _imported_modules(nodes: list[ast.AST]) -> dict[str, set[str]]:
    """Name -> modules that it is bound to anywhere in the source."""
    modules: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name not in MODULES or ("." in alias.name and alias.asname is None):
                    raise _Wild(f"import {alias.name}")
                _check_identifier(alias.asname)
                modules.setdefault(alias.asname or alias.name, set()).add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            allowed = MODULES.get(node.module or "")
            if allowed is None or node.level:
                raise _Wild(f"from {node.module} import")
            for alias in node.names:
                if alias.name not in allowed:
                    raise _Wild(f"from {node.module} import {alias.name}")
                _check_identifier(alias.asname)
    return modules


def _check_identifier(name: str | None) -> None:
    if name is not None and name.startswith("__"):
        raise _Wild(f"name {name}")


def _check_name(
    node: ast.Name, modules: dict[str, set[str]], bases: dict[int, ast.Attribute], called_type: set[int]
) -> None:
    if node.id.startswith("__") or node.id in WILD_BUILTINS:
        plain = isinstance(node.ctx, ast.Load) and (
            node.id == "__name__" or (node.id == "type" and id(node) in called_type)
        )
        if not plain:
            raise _Wild(f"name {node.id}")
    if node.id in modules and isinstance(node.ctx, ast.Load):
        attribute = bases.get(id(node))
        if attribute is None:
            raise _Wild(f"module {node.id} as a value")
        for module in modules[node.id]:
            harmless = attribute.attr in MODULES[module] or not hasattr(importlib.import_module(module), attribute.attr)
            if not harmless:
                raise _Wild(f"{module}.{attribute.attr}")


def _check_attribute(node: ast.Attribute, modules: dict[str, set[str]]) -> None:
    if not isinstance(node.ctx, ast.Load):
        raise _Wild(f"attribute {node.attr} is set")
    if node.attr == "format" and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        _check_format(node.value.value)
        return
    if isinstance(node.value, ast.Name) and node.value.id in modules:
        known = any(node.attr in MODULES[module] for module in modules[node.value.id])
        if known or node.attr in ATTRIBUTES:
            return
    if node.attr not in ATTRIBUTES:
        raise _Wild(f"attribute {node.attr}")


def _check_format(text: str) -> None:
    try:
        for _, field, specification, _ in string.Formatter().parse(text):
            if field and ("." in field or "[" in field):
                raise _Wild("format looks at attributes")
            if specification and "{" in specification:
                _check_format(specification)
    except ValueError:
        return  # a broken template raises when it is used


def _check_function(node: ast.FunctionDef | ast.Lambda) -> None:
    if isinstance(node, ast.FunctionDef):
        _check_identifier(node.name)
    inside = list(ast.walk(node))
    if any(isinstance(item, (ast.Yield, ast.YieldFrom)) for item in inside) and any(
        isinstance(item, ast.Try) for item in inside
    ):
        raise _Wild("a generator that catches exceptions")
