"""Prove from its source that a tool's call cannot affect another call, so that it may share a process with others.

A process per call isolates anything but costs about a millisecond. `why_unproven(tree)` returns None for code that
needs none, and a reason for all other code. The proof is an allow-list, and it rests on five points:

1. No classes: no `class`, no `type` as a value, nothing imported that makes a class. So every object that tool code can
   reach has a type of the standard library, and no special method is the tool's own.
2. Attributes are only read, and only by the public names in ATTRIBUTES. No name with two leading underscores is used.
   `format` is called on literals whose fields read no attribute.
3. Imports name listed modules, or packages that are not installed, which raises. Every function in BUILTINS and MODULES
   changes nothing but its arguments and its result, for any arguments that such code can pass. `random` is the
   exception: the runner seeds it before each call of code that imports it. A module is never a value; it only stands in
   front of a listed attribute.
4. Nothing runs later: no `yield`, `with`, coroutine, thread or finalizer. A generator expression that is left behind
   runs no code when it is collected.
5. Results do not depend on addresses: no `id`, `hash` or `object`; the runner repeats a call whose text holds one.

Proven code can still loop, recurse and fill memory: limits, and running the call again by itself, take care of that.
"""

from __future__ import annotations

import ast
import builtins
import string
import sys
from typing import Any

SYNTAX = """
Module Expression Expr FunctionDef arguments arg Return Delete Assign AugAssign AnnAssign For While If Raise Try Assert Import
ImportFrom alias Global Nonlocal Pass Break Continue BoolOp NamedExpr BinOp UnaryOp Lambda IfExp Dict Set ListComp SetComp
DictComp GeneratorExp Compare Call keyword FormattedValue JoinedStr Constant Attribute Subscript Starred
Name List Tuple Slice comprehension ExceptHandler Load Store Del And Or Add Sub Mult MatMult Div Mod Pow LShift RShift
BitOr BitXor BitAnd FloorDiv Invert Not UAdd USub Eq NotEq Lt LtE Gt GtE Is IsNot In NotIn
Match match_case MatchValue MatchSingleton MatchSequence MatchMapping MatchStar MatchAs MatchOr
"""
NODES = frozenset(getattr(ast, name) for name in SYNTAX.split())

HARMLESS = """
abs all any ascii bin bool bytes callable chr complex dict divmod enumerate filter float format frozenset hex int isinstance
issubclass iter len list map max min next oct ord pow print range repr reversed round set slice sorted str sum tuple zip
True False None NotImplemented Ellipsis
"""
BUILTINS = frozenset(HARMLESS.split()) | {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException) and not issubclass(value, BaseExceptionGroup)
}
OTHER_BUILTINS = frozenset(vars(builtins)) - BUILTINS
"""`type` and `eval` are values of nothing; see `_check_name` for the calls of them that are proven."""

PUBLIC = """
capitalize casefold center count encode decode endswith expandtabs find index isalnum isalpha isascii isdecimal
isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip maketrans partition
removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip
swapcase title translate upper zfill hex fromhex append clear copy extend insert pop remove reverse sort fromkeys get
items keys popitem setdefault update values add difference difference_update discard intersection intersection_update
isdisjoint issubset issuperset symmetric_difference symmetric_difference_update union start stop step as_integer_ratio
bit_count bit_length conjugate denominator from_bytes imag is_integer numerator real to_bytes year month day hour
minute second microsecond tzinfo fold days seconds microseconds total_seconds min max resolution today now utcnow
fromtimestamp utcfromtimestamp timestamp fromordinal toordinal fromisoformat isoformat fromisocalendar isocalendar
isoweekday weekday week strptime strftime timetuple utctimetuple date time timetz combine astimezone ctime utcoffset
dst tzname utc end endpos expand group groupdict groupindex groups lastgroup lastindex pos span string flags pattern
match fullmatch search findall finditer sub subn most_common elements total subtract appendleft extendleft popleft
rotate maxlen move_to_end default_factory quantize normalize to_integral_value sqrt ln log10 exp is_nan is_infinite
is_finite is_signed is_zero as_tuple limit_denominator args msg lineno colno
"""
ATTRIBUTES = frozenset(PUBLIC.split())
"""Methods and values of text, numbers, containers, dates, matches, Counter, deque, Decimal, Fraction, and
exceptions.
"""

MODULES: dict[str, frozenset[str]] = {
    module: frozenset(names.split())
    for module, names in {
        "__future__": "annotations",
        "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
        "calendar": "monthrange isleap leapdays weekday timegm",
        "cmath": "acos acosh asin asinh atan atanh cos cosh e exp inf infj isclose isfinite isinf isnan log log10 nan nanj phase"
        " pi polar rect sin sinh sqrt tan tanh tau",
        "collections": "Counter OrderedDict defaultdict deque",
        "datetime": "datetime date time timedelta timezone UTC MINYEAR MAXYEAR",
        "decimal": "Decimal ROUND_HALF_UP ROUND_HALF_EVEN ROUND_HALF_DOWN ROUND_UP ROUND_DOWN ROUND_CEILING ROUND_FLOOR"
        " InvalidOperation DivisionByZero DecimalException",
        "fractions": "Fraction",
        "functools": "reduce",
        "heapq": "heappush heappop heapify heappushpop heapreplace nlargest nsmallest",
        "itertools": "accumulate chain combinations combinations_with_replacement compress count cycle dropwhile filterfalse"
        " groupby islice pairwise permutations product repeat starmap takewhile zip_longest",
        "json": "dumps loads JSONDecodeError",
        "math": "acos acosh asin asinh atan atan2 atanh cbrt ceil comb copysign cos cosh degrees dist e erf erfc exp exp2 expm1"
        " fabs factorial floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan isqrt lcm ldexp lgamma log"
        " log10 log1p log2 modf nan nextafter perm pi pow prod radians remainder sin sinh sqrt tan tanh tau trunc ulp",
        "operator": "add sub mul truediv floordiv mod pow neg pos abs eq ne lt le gt ge and_ or_ not_ xor invert lshift rshift"
        " concat contains countOf indexOf getitem itemgetter truth is_ is_not",
        "random": "random randint randrange choice choices sample shuffle uniform gauss normalvariate triangular expovariate"
        " betavariate seed getrandbits",
        "re": "compile match search fullmatch findall finditer sub subn split escape error A ASCII I IGNORECASE M MULTILINE"
        " S DOTALL X VERBOSE U UNICODE",
        "statistics": "mean fmean geometric_mean harmonic_mean median median_low median_high median_grouped mode multimode"
        " pstdev pvariance stdev variance quantiles correlation covariance StatisticsError",
        "string": "ascii_letters ascii_lowercase ascii_uppercase digits hexdigits octdigits punctuation printable whitespace"
        " capwords",
        "time": "time strftime strptime localtime gmtime mktime asctime ctime perf_counter monotonic process_time",
        "typing": "Any Optional Union List Dict Tuple Set FrozenSet Callable Iterable Iterator Sequence Mapping Literal",
        "unicodedata": "normalize category name combining decimal digit numeric",
    }.items()
}
ANNOTATION_MODULES = ("typing",)
"""Their names may stand in annotations only, where nothing is done with them but subscription."""


CALLED_ONLY = frozenset({"Counter", "Fraction"})
"""Classes written in Python. They may be called and nothing else: `Counter.copy(int)` would return `type(int)`. The
methods of all other listed classes are written in C and refuse a foreign `self`."""


class _Unproven(Exception):
    """The message says why."""


def why_unproven(tree: ast.Module | ast.Expression) -> str | None:
    """None if the code is proven, else the first reason against it.

    A direct call of `eval` counts as proven in a module, because the runner replaces it by one that judges its text by
    this same function. In an expression, that is in such a text, it does not, nor do attributes, lambdas and
    assignments.
    """
    try:
        _check(tree)
    except _Unproven as reason:
        return str(reason)
    return None


def uses_random(tree: ast.Module) -> bool:
    """Whether the code imports `random`, whose state is shared."""
    return any(
        (isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "random")
        for node in ast.walk(tree)
    )


class _Imports:
    """Names that imports bind anywhere in a source. None of them may be bound in another way."""

    def __init__(self) -> None:
        self.modules: dict[str, set[str]] = {}
        """Name -> modules of MODULES."""
        self.values: set[str] = set()
        self.called: set[str] = set()
        """Names of CALLED_ONLY."""
        self.annotations: set[str] = set()
        """Names that only annotations may use."""
        self.absent: set[str] = set()
        """Names of packages that tools do not have, or from them: the import raises, so they never have a value."""

    def restricted(self) -> set[str]:
        return self.modules.keys() | self.annotations | self.absent


def _check(tree: ast.Module | ast.Expression) -> None:
    nodes, parents = _walk(tree)
    in_module = isinstance(tree, ast.Module)
    imports = _imports(nodes)
    restricted = imports.restricted()
    in_annotations = {
        id(inner)
        for node in nodes
        for outer in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if outer is not None
        for inner in ast.walk(outer)
    }
    for node in nodes:
        if type(node) not in NODES or (not in_module and isinstance(node, (ast.NamedExpr, ast.Lambda))):
            raise _Unproven(type(node).__name__)
        for name in _bound(node):
            if name.startswith("__"):
                raise _Unproven(f"name {name}")
            if name in restricted:
                raise _Unproven(f"name {name} is bound besides its import")
        if isinstance(node, ast.Name):
            _check_name(node, parents, imports, in_module, id(node) in in_annotations)
        elif isinstance(node, ast.Attribute):
            _check_attribute(node, imports, in_module)
            if node.attr in CALLED_ONLY and not _is_called(node, parents):
                raise _Unproven(f"{node.attr} as a value")


def _walk(tree: ast.AST) -> tuple[list[ast.AST], dict[int, ast.AST]]:
    """All nodes and the parent of each by id, without the constants and the marks of reading: most nodes, and always
    fine.
    """
    nodes, parents = [tree], {}
    for node in nodes:
        for name in node._fields:
            value = getattr(node, name, None)
            for child in value if type(value) is list else (value,):
                if isinstance(child, ast.AST) and type(child) not in (ast.Constant, ast.Load):
                    parents[id(child)] = node
                    nodes.append(child)
    return nodes, parents


def _imports(nodes: list[ast.AST]) -> _Imports:
    found = _Imports()
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                if _absent(alias.name):
                    found.absent.add(name)
                elif alias.name in MODULES and "." not in alias.name:
                    found.modules.setdefault(name, set()).add(alias.name)
                else:
                    raise _Unproven(f"import {alias.name}")
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = alias.asname or alias.name
                if node.level == 0 and _absent(node.module or "") and name != "*":
                    found.absent.add(name)
                elif node.level or alias.name not in MODULES.get(node.module or "", ()):
                    raise _Unproven(f"from {node.module} import {alias.name}")
                else:
                    (found.annotations if node.module in ANNOTATION_MODULES else found.values).add(name)
                    if alias.name in CALLED_ONLY:
                        found.called.add(name)
    kinds = (found.modules.keys(), found.values, found.annotations, found.absent)
    for name in found.restricted() | found.values:
        if sum(name in kind for kind in kinds) > 1:
            raise _Unproven(f"name {name} is imported as two kinds of thing")
    return found


def _absent(module: str) -> bool:
    """Whether importing a module raises, since tools see the standard library only."""
    return bool(module) and module.partition(".")[0] not in sys.stdlib_module_names


def _bound(node: ast.AST) -> list[str]:
    """Names that a node binds, or passes as a keyword. Imports bind none here, unless under another name."""
    if isinstance(node, ast.Name):
        return [node.id] if not isinstance(node.ctx, ast.Load) else []
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        return list(node.names)
    if isinstance(node, ast.alias):
        return ["__as__"] if (node.asname or "").startswith("__") else []
    if isinstance(node, ast.keyword):
        return ["__keyword__"] if (node.arg or "").startswith("__") else []
    names = [getattr(node, key, None) for key in ("name", "arg", "rest")]
    return [name for name in names if isinstance(name, str)]


def _check_name(
    node: ast.Name, parents: dict[int, ast.AST], imports: _Imports, in_module: bool, in_annotation: bool
) -> None:
    parent, modules = parents.get(id(node)), imports.modules
    if node.id in imports.annotations and not in_annotation:
        raise _Unproven(f"{node.id} outside an annotation")
    if node.id in imports.called and not _is_called(node, parents):
        raise _Unproven(f"{node.id} as a value")
    if node.id in modules:
        if not (isinstance(parent, ast.Attribute) and isinstance(node.ctx, ast.Load)):
            raise _Unproven(f"module {node.id} as a value")
        if not in_annotation and any(module in ANNOTATION_MODULES for module in modules[node.id]):
            raise _Unproven(f"{node.id} outside an annotation")
        return
    if node.id == "__name__":
        return
    if node.id.startswith("__"):
        raise _Unproven(f"name {node.id}")
    if node.id not in OTHER_BUILTINS:
        return
    if isinstance(parent, ast.Call) and parent.func is node and not parent.keywords and isinstance(node.ctx, ast.Load):
        if node.id == "eval" and in_module:
            return
        plain = in_module and len(parent.args) == 1 and not isinstance(parent.args[0], ast.Starred)
        if node.id == "type" and plain and _only_looked_at(parent, parents.get(id(parent))):
            return
    raise _Unproven(f"name {node.id}")


def _is_called(node: ast.AST, parents: dict[int, ast.AST]) -> bool:
    parent = parents.get(id(node))
    return isinstance(parent, ast.Call) and parent.func is node


def _only_looked_at(call: ast.Call, parent: ast.AST | None) -> bool:
    """Whether a call `type(x)` is `type(x).__name__` or one side of a comparison."""
    if isinstance(parent, ast.Compare):
        return True
    return isinstance(parent, ast.Attribute) and parent.attr == "__name__" and isinstance(parent.ctx, ast.Load)


def _check_attribute(node: ast.Attribute, imports: _Imports, in_module: bool) -> None:
    base: Any = node.value
    modules = imports.modules
    if not isinstance(node.ctx, ast.Load):
        raise _Unproven(f"attribute {node.attr} is set")
    if isinstance(base, ast.Name) and base.id in modules:
        if not all(node.attr in MODULES[module] for module in modules[base.id]):
            raise _Unproven(f"{base.id}.{node.attr}")
    elif node.attr == "format" and isinstance(base, ast.Constant) and isinstance(base.value, str):
        _check_format(base.value)
    elif node.attr == "__name__" and isinstance(base, ast.Call) and isinstance(base.func, ast.Name):
        if base.func.id != "type":
            raise _Unproven("attribute __name__")
    elif (node.attr not in ATTRIBUTES or not in_module) and not (
        not node.attr.startswith("_") and isinstance(_root(base), ast.Name) and _root(base).id in imports.absent
    ):
        raise _Unproven(f"attribute {node.attr}")  # none in a text for `eval`, where a name may be anything


def _root(node: Any) -> Any:
    """What a chain of attributes, subscripts and calls begins with."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node


def _check_format(text: str) -> None:
    try:
        for _, name, specification, _ in string.Formatter().parse(text):
            if name and ("." in name or "[" in name):
                raise _Unproven("format looks at attributes")
            if specification and "{" in specification:
                _check_format(specification)
    except ValueError:
        return  # a broken template raises when it is used
