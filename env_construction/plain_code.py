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
  never a value; no listed attribute is a module or can be changed. Importing a package that is not installed is plain:
  it raises.

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
import importlib.util
import re
import string
import sys
from dataclasses import dataclass, field
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
"""`type` and `eval` are wild as values; see `why_wild` for calls of them."""

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


@dataclass
class _Imports:
    """Names that imports bind anywhere in a source."""

    modules: dict[str, set[str]] = field(default_factory=dict)
    """Name -> modules of MODULES."""
    dead: set[str] = field(default_factory=set)
    """Names that only an import of an absent package would bind: it raises, so they never have a value."""


def why_wild(tree: ast.Module | ast.Expression) -> str | None:
    """None if the code is plain, else the first reason against it.

    A direct call of `eval` counts as plain in a module, because the runner replaces it by one that judges its text by
    this same function; in an expression, that is in such a text, it is wild.
    """
    nodes = list(ast.walk(tree))
    calls = {id(node.func): node for node in nodes if isinstance(node, ast.Call)}
    bases = {id(node.value): node for node in nodes if isinstance(node, ast.Attribute)}
    allowed = NODES if isinstance(tree, ast.Module) else NODES | {ast.Expression}
    try:
        imports = _imports(nodes)
        for node in nodes:
            if type(node) not in allowed:
                raise _Wild(f"{type(node).__name__}")
            for name in _identifiers(node):
                if name.startswith("__"):
                    raise _Wild(f"name {name}")
            if isinstance(node, ast.Name):
                _check_builtin(node, calls.get(id(node)), isinstance(tree, ast.Module))
                _check_module(node, bases.get(id(node)), imports)
            elif isinstance(node, ast.Attribute):
                _check_attribute(node, imports)
            elif isinstance(node, (ast.FunctionDef, ast.Lambda)):
                _check_generator(node)
            elif (
                isinstance(node, ast.AugAssign)
                and isinstance(node.target, ast.Name)
                and node.target.id in imports.modules
            ):
                raise _Wild(f"module {node.target.id} as a value")
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


def _imports(nodes: list[ast.AST]) -> _Imports:
    found = _Imports()
    bound: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                if alias.name in MODULES and ("." not in alias.name or alias.asname is not None):
                    found.modules.setdefault(name, set()).add(alias.name)
                    bound.add(name)
                elif _absent(alias.name):
                    found.dead.add(name)
                else:
                    raise _Wild(f"import {alias.name}")
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0 and node.module is not None and _absent(node.module):
                found.dead.update(alias.asname or alias.name for alias in node.names)
                continue
            for alias in node.names:
                if node.level or alias.name not in MODULES.get(node.module or "", ()):
                    raise _Wild(f"from {node.module} import {alias.name}")
                bound.add(alias.asname or alias.name)
        elif not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)) and type(node) is not ast.alias:
            bound.update(_identifiers(node))
    if found.dead & bound:
        raise _Wild(f"import of an absent package under a name that is used otherwise: {min(found.dead & bound)}")
    return found


def _absent(module: str) -> bool:
    """Whether importing a module raises, because its package is not installed for tools."""
    package = module.partition(".")[0]
    return package not in sys.stdlib_module_names and importlib.util.find_spec(package) is None


def _identifiers(node: ast.AST) -> list[str]:
    """Names that a node binds or uses, except builtins and attributes."""
    if isinstance(node, ast.Name):
        return [node.id] if isinstance(node.ctx, ast.Store | ast.Del) or node.id != "__name__" else []
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        return list(node.names)
    if isinstance(node, ast.alias):
        return [node.asname] if node.asname else []
    names = [getattr(node, key, None) for key in ("name", "arg", "rest")]
    return [name for name in names if isinstance(name, str)]


def _check_builtin(node: ast.Name, call: ast.Call | None, in_module: bool) -> None:
    if node.id not in WILD_BUILTINS or node.id == "__name__":
        return
    if isinstance(node.ctx, ast.Load) and call is not None and not call.keywords:
        if node.id == "type" and len(call.args) == 1 and not isinstance(call.args[0], ast.Starred):
            return
        if node.id == "eval" and in_module:
            return
    raise _Wild(f"name {node.id}")


def _check_module(node: ast.Name, attribute: ast.Attribute | None, imports: _Imports) -> None:
    if node.id not in imports.modules or not isinstance(node.ctx, ast.Load):
        return
    if attribute is None:
        raise _Wild(f"module {node.id} as a value")
    for module in imports.modules[node.id]:
        if attribute.attr not in MODULES[module] and hasattr(importlib.import_module(module), attribute.attr):
            raise _Wild(f"{module}.{attribute.attr}")


def _check_attribute(node: ast.Attribute, imports: _Imports) -> None:
    if not isinstance(node.ctx, ast.Load):
        raise _Wild(f"attribute {node.attr} is set")
    if node.attr == "format" and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        _check_format(node.value.value)
        return
    if node.attr in ATTRIBUTES:
        return
    if isinstance(node.value, ast.Name) and any(
        node.attr in MODULES[module] for module in imports.modules.get(node.value.id, ())
    ):
        return
    root: ast.expr = node
    while isinstance(root, (ast.Attribute, ast.Subscript, ast.Call)):
        root = root.func if isinstance(root, ast.Call) else root.value
    if not (isinstance(root, ast.Name) and root.id in imports.dead):
        raise _Wild(f"attribute {node.attr}")


def _check_format(text: str) -> None:
    try:
        for _, name, specification, _ in string.Formatter().parse(text):
            if name and ("." in name or "[" in name):
                raise _Wild("format looks at attributes")
            if specification and "{" in specification:
                _check_format(specification)
    except ValueError:
        return  # a broken template raises when it is used


def _check_generator(node: ast.FunctionDef | ast.Lambda) -> None:
    inside = list(ast.walk(node))
    if any(isinstance(item, (ast.Yield, ast.YieldFrom)) for item in inside) and any(
        isinstance(item, ast.Try) for item in inside
    ):
        raise _Wild("a generator that catches exceptions")
