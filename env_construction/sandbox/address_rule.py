"""Rule 5 of the proof (code_proof.py): no result can depend on the address of an object.

Python shows functions, bound methods and iterators by their address, which differs between processes. So proven code
never has one of them where it could become text, be stored, returned or passed to a function of its own. Their only
places are:

- a function: it is called, or it is an argument that a listed function calls (`key=` of `sorted`, the first of `map`);
- an iterator: a loop or a listed function reads it;
- both: they are assigned to a name of which every use is one of these places, or the value is discarded.

A table is a dictionary of functions. A name may hold one if it is only asked for a function or for its keys. A function
that returns a function or a table may only be called.

The order of a set shows addresses too, because matches, exceptions and `nan` have a hash by address. So proven code
never reads the order of a set: a set is compared, counted, changed by its methods or joined with another. A set of
constants is free, unless the code can add to it. A view of a dictionary (`.keys()`) can become a set by an operator
such as `-`. So code with such operators only reads its views.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from env_construction.sandbox.listed_names import BUILTINS, MODULES

FUNCTION, ITERATOR, TABLE = "function", "iterator", "table of functions"
MAKER = "function that returns an iterator, a set, a function or a table"
GROUPS = "groups"
SET, VIEW, SET_CLASS = "set", "view of a dictionary", "class of sets"


def _each(names: str, value: Any, prefix: str = "") -> dict[str, Any]:
    return {prefix + name: value for name in names.split()}


_ANY = -1
READS: dict[str, tuple[int, ...]] = {
    **_each("list tuple set frozenset dict sorted sum any all min max enumerate next iter", (0,)),
    **_each("filter functools.reduce collections.defaultdict heapq.nlargest heapq.nsmallest", (1,)),
    **_each("zip", (_ANY,)),
    **_each("map", (1, 2, 3, 4)),
    **_each("Counter OrderedDict deque", (0,), "collections."),
    **_each("prod fsum", (0,), "math."),
    **_each("mean fmean median pstdev pvariance stdev variance", (0,), "statistics."),
    **_each("accumulate combinations combinations_with_replacement cycle groupby", (0,), "itertools."),
    **_each("islice pairwise permutations", (0,), "itertools."),
    **_each("starmap takewhile dropwhile filterfalse", (1,), "itertools."),
    **_each("chain product zip_longest compress", (_ANY,), "itertools."),
    **_each("join extend extendleft fromkeys", (0,), "."),
    **_each("update union intersection difference issubset issuperset isdisjoint", (_ANY,), "."),
}
"""Function -> positions of the arguments that it iterates and neither keeps nor returns."""

CALLS: dict[str, int] = {
    **_each("map filter callable functools.reduce .sub .subn", 0),
    **_each("starmap takewhile dropwhile filterfalse", 0, "itertools."),
    **_each("itertools.accumulate itertools.groupby re.sub re.subn", 1),
}
"""Function -> position of the argument that it calls and does not keep."""

KEYED = frozenset(_each("sorted min max .sort heapq.nlargest heapq.nsmallest itertools.groupby", None))
"""Functions that only call the value of `key=`."""

MAKERS = frozenset(_each("map filter zip enumerate iter reversed re.finditer .finditer .elements", None))
"""Functions that return an iterator, besides all of itertools."""

KEYS_READ = frozenset(_each("list tuple set frozenset sorted len .join", None))
"""Functions that read the keys of a dictionary, and not its values."""

_SET_CLASSES = ("set", "frozenset")

SETS_MADE = frozenset(_each("union intersection difference symmetric_difference", None, "."))
"""Methods that return a set."""

SET_METHODS = SETS_MADE | _each("issubset issuperset isdisjoint", None, ".").keys()
"""Methods that only sets have. They take sets and show no order.

`update` and its like are not among them: the set or dictionary that a set changes can have other names.
"""

SET_CHANGES = frozenset(
    _each("update difference_update intersection_update symmetric_difference_update", None, ".")
    | _each("add discard remove clear", None, ".")
)
"""Further methods of a set that show no order. They return nothing."""

ORDER_BLIND = ("len", "bool", "isinstance", *_SET_CLASSES)
"""Functions that take a set and show no order."""

VIEWS = frozenset({".keys", ".items"})

DATA = frozenset(
    _each("year month day hour minute second microsecond tzinfo fold days seconds microseconds resolution utc", None)
    | _each("real imag numerator denominator stop step endpos lastgroup lastindex pos string flags pattern", None)
    | _each("groupindex maxlen args msg lineno colno __name__", None)
)
"""Listed attributes that are data. The others are methods."""

_COMPREHENSIONS = (ast.GeneratorExp, ast.ListComp, ast.SetComp, ast.DictComp)
_OPENS = frozenset({ast.FunctionDef, ast.Lambda, *_COMPREHENSIONS})
"""Nodes that open a scope."""
_SPLIT = _OPENS | {ast.arguments, ast.arg, ast.comprehension}
"""Nodes with parts in different scopes."""
_BINDING = frozenset({
    ast.alias, ast.Name, ast.arg, ast.FunctionDef, ast.ExceptHandler, ast.MatchAs,
    ast.MatchStar, ast.MatchMapping,
})  # fmt: skip
_PASSING = frozenset({ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For, ast.comprehension, ast.Return})
_SHARED = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)
"""Kinds of nodes that a parser uses several times, so they have no one parent."""
_TESTS = (ast.If, ast.While, ast.IfExp, ast.Assert)
_SET_OPERATORS = (ast.BitOr, ast.BitAnd, ast.BitXor, ast.Sub)
_STABLE = (str, int, float, bytes)
"""Kinds of constants whose hash is the same in each process of a sandbox."""


@functools.cache
def _shows_address(module: str, name: str) -> bool:
    """Whether Python shows the listed function by its address. Functions written in C have none."""
    return " at 0x" in repr(getattr(importlib.import_module(module), name, None))


def _of_import(origin: str) -> Collection[str]:
    """The kinds of a listed function, given as `module.name`."""
    module, _, name = origin.rpartition(".")
    if module == "itertools" or origin in MAKERS:
        return (MAKER,)
    return (FUNCTION,) if module in MODULES and _shows_address(module, name) else ()


def root_of(node: Any) -> Any:
    """The first node of a chain of attributes, subscripts and calls."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node


class AddressRule:
    """The rule for one source.

    `nodes`, `parents`: all nodes, each after its parent, and each one's parent by id. `modules`: the modules that a
    name stands for. `absent`: names of packages that are not installed, whose import raises.
    """

    def __init__(
        self,
        nodes: Sequence[ast.AST],
        parents: Mapping[int, ast.AST],
        modules: Mapping[str, set[str]],
        absent: set[str],
    ) -> None:
        self.nodes = [node for node in nodes if not isinstance(node, _SHARED)]
        self.parents = parents
        self.modules = modules
        self.absent = absent
        self.top = id(nodes[0])
        self.in_module = isinstance(nodes[0], ast.Module)
        self.scope: dict[int, int] = {self.top: self.top}
        """Node -> the scope that evaluates it. A scope is the id of its node."""
        self.outside: dict[int, int] = {}
        """Scope -> the scope around it."""
        self.comprehensions: set[int] = set()
        self.bound: dict[int, set[str]] = {self.top: set()}
        """Scope -> its own names."""
        self.elsewhere: dict[int, dict[str, bool]] = {}
        """Scope -> names that it declares global (True) or nonlocal (False)."""
        self.imported: dict[str, set[str]] = {}
        """Name -> `module.name` of its imports."""
        self.assigned: set[str] = set()
        """Names that anything but an import binds, in any scope."""
        self.functions: dict[tuple[int, str], list[int]] = {}
        """Name of a scope -> the scopes of the functions that are defined by it."""
        self.returned: dict[int, set[str]] = defaultdict(set)
        """Scope of a function -> the kinds of what it returns, functions and tables."""
        self.sets_grow = not self.in_module or any(
            node.attr in ("add", "update", "symmetric_difference_update")
            if isinstance(node, ast.Attribute)
            else isinstance(node, ast.AugAssign) and isinstance(node.op, (ast.BitOr, ast.BitXor))
            for node in self.nodes
        )
        """Whether code can add a value to a set of constants."""
        self.views_join = any(
            isinstance(node, _SET_OPERATORS)
            or (isinstance(node, ast.Name) and node.id == "eval")
            or (isinstance(node, ast.alias) and node.name == "operator")
            or (isinstance(node, ast.ImportFrom) and node.module == "operator")
            for node in nodes
        )
        """Whether an operator can make a set of a view."""
        self.defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        self.rules: dict[type, Callable[[Any], Collection[str]]] = {
            ast.Lambda: lambda _: (FUNCTION,),
            ast.GeneratorExp: lambda _: (ITERATOR,),
            ast.Name: self._of_name,
            ast.Attribute: self._of_attribute,
            ast.Call: self._of_call,
            ast.Subscript: self._of_subscript,
            ast.Dict: self._of_dict,
            ast.IfExp: self._of_choice,
            ast.Set: self._of_set,
            ast.SetComp: lambda _: (SET,),
            ast.BinOp: self._of_operator,
        }
        self.kinds: dict[tuple[int, str], set[str]] = {}
        """What a name of a scope may hold, of the kinds that have an address."""

    def broken_by(self) -> str | None:
        """The first value whose address could show, or None."""
        if self.in_module and not any(self._may_hold(node) for node in self.nodes):
            return None  # most tools; saves half the time of a proof
        for node in self.nodes:
            self._place_in_scope(node)
        for node in self.nodes:
            if type(node) in _BINDING:
                self._bind(node)
        passing = [node for node in self.nodes if type(node) in _PASSING]
        while any([self._pass_on(node) for node in passing]):
            continue
        for node in self.nodes:
            for kind in self._kinds(node):
                if not self._in_place(node, kind):
                    return f"{kind} {getattr(node, 'id', getattr(node, 'attr', type(node).__name__))} as a value"
        return None

    def _may_hold(self, node: ast.AST) -> bool:
        """Whether a node is a function or iterator in a place other than a call, judged without scopes."""
        kind = type(node)
        if kind is ast.Name:
            name: str = node.id  # type: ignore[attr-defined]
            return name in MAKERS or name in self.defined or name in _SET_CLASSES
        if kind is ast.Attribute:
            held = self._of_attribute(node)  # type: ignore[arg-type]
            parent: Any = self.parents[id(node)]
            if f".{node.attr}" in VIEWS and isinstance(parent, ast.Call):  # type: ignore[attr-defined]
                reader = self.parents[id(parent)]
                if isinstance(reader, (ast.For, ast.comprehension)) and reader.iter is parent:
                    return False  # `for key, value in x.items()`
            return MAKER in held or (bool(held) and not (isinstance(parent, ast.Call) and parent.func is node))
        if isinstance(node, ast.ImportFrom):
            return any(_of_import(f"{node.module}.{alias.name}") for alias in node.names)
        return kind in (ast.Lambda, ast.GeneratorExp, ast.SetComp) or bool(kind is ast.Set and self._of_set(node))

    def _place_in_scope(self, node: ast.AST) -> None:
        parent = self.parents.get(id(node))
        if parent is None:
            return
        scope = self.scope[id(parent)]
        if type(parent) not in _SPLIT:
            pass
        elif isinstance(parent, ast.FunctionDef):
            scope = scope if node in parent.decorator_list or node is parent.returns else id(parent)
        elif isinstance(parent, (ast.Lambda, *_COMPREHENSIONS)):
            scope = id(parent)
        elif isinstance(parent, ast.arguments) and not isinstance(node, ast.arg):
            scope = self.outside[scope]  # defaults
        elif isinstance(parent, ast.arg):
            scope = self.outside[scope]  # annotations
        elif isinstance(parent, ast.comprehension) and node is parent.iter:
            whole: Any = self.parents[id(parent)]
            scope = self.outside[scope] if parent is whole.generators[0] else scope
        self.scope[id(node)] = scope
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            for name in node.names:
                self.elsewhere.setdefault(scope, {})[name] = isinstance(node, ast.Global)
        elif type(node) in _OPENS:
            self.outside[id(node)] = scope
            self.bound[id(node)] = set()
            if isinstance(node, _COMPREHENSIONS):
                self.comprehensions.add(id(node))

    def _bind(self, node: ast.AST) -> None:
        scope = self.scope[id(node)]
        if isinstance(node, ast.alias):
            name = (node.asname or node.name).partition(".")[0]
            self.bound[scope].add(name)
            parent = self.parents[id(node)]
            origin = f"{parent.module}.{node.name}" if isinstance(parent, ast.ImportFrom) else ""
            self.imported.setdefault(name, set()).add(origin)
        elif isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                if isinstance(self.parents.get(id(node)), ast.NamedExpr):
                    while scope in self.comprehensions:
                        scope = self.outside[scope]
                self._own(scope, node.id)
        else:
            bound: Any = next(filter(None, (getattr(node, key, None) for key in ("name", "arg", "rest"))), None)
            if bound is not None:
                self._own(scope, bound)
            if isinstance(node, ast.FunctionDef):
                self._hold(scope, bound, FUNCTION)
                self.functions.setdefault((self._home(scope, bound) or self.top, bound), []).append(id(node))

    def _own(self, scope: int, name: str) -> None:
        self.bound[scope].add(name)
        self.assigned.add(name)

    def _hold(self, scope: int, name: str, kind: str) -> bool:
        """Note that a name may hold a value of this kind. Return whether this is new."""
        held = self.kinds.setdefault((self._home(scope, name) or self.top, name), set())
        new = kind not in held
        held.add(kind)
        return new

    def _home(self, scope: int, name: str) -> int | None:
        """The scope whose name this is; None for a builtin."""
        while True:
            declared = self.elsewhere.get(scope, {}).get(name)
            if declared:
                return self.top
            if name in self.bound[scope] and declared is None:
                return scope
            if scope == self.top:
                return None
            scope = self.outside[scope]

    def _pass_on(self, node: Any) -> bool:
        """Pass the kinds of a value on to the names that get it. Return whether any was new."""
        new = False
        if isinstance(node, ast.Return):
            function = self.scope[id(node)]
            for kind in {FUNCTION, TABLE} & set(self._kinds(node.value)) - self.returned[function]:
                self.returned[function].add(kind)
                new = True
        elif isinstance(node, (ast.For, ast.comprehension)):
            if GROUPS in self._kinds(node.iter) and isinstance(node.target, ast.Tuple):
                target = node.target.elts[-1]
                new = isinstance(target, ast.Name) and self._hold(self.scope[id(target)], target.id, ITERATOR)
        elif isinstance(node, ast.AugAssign):
            target = node.target
            if isinstance(node.op, _SET_OPERATORS) and isinstance(target, ast.Name):
                held = self.kinds.get((self._home(self.scope[id(target)], target.id) or self.top, target.id), ())
                new = VIEW in held and self._hold(self.scope[id(target)], target.id, SET)
        else:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for kind in tuple(self._kinds(node.value)):
                for target in targets:
                    if isinstance(target, ast.Name):
                        new |= self._hold(self.scope[id(target)], target.id, kind)
        return new

    def _kinds(self, node: Any) -> Collection[str]:
        """The kinds with an address that the value of a node may have."""
        found = self.rules.get(type(node))
        return found(node) if found else ()

    def _of_name(self, node: ast.Name) -> Collection[str]:
        if not isinstance(node.ctx, ast.Load):
            return ()
        name = node.id
        builtin = (MAKER,) if name in MAKERS else (SET_CLASS,) if name in _SET_CLASSES else ()
        if name not in self.assigned and name not in self.imported:
            # The text of an `eval` sees names of code that is not checked here.
            return builtin if self.in_module or name in BUILTINS else (FUNCTION,)
        home = self._home(self.scope[id(node)], name)
        held = set(self.kinds.get((home or self.top, name), ()))
        if self._returned_by(node):
            held.add(MAKER)
        for origin in self.imported.get(name, ()):
            held.update(_of_import(origin))
        if home in (None, self.top):  # a name of the module may not be bound yet
            held.update(builtin)
        return held

    def _of_attribute(self, node: ast.Attribute) -> Collection[str]:
        if isinstance(node.value, ast.Name) and node.value.id in self.modules:
            return {kind for module in self.modules[node.value.id] for kind in _of_import(f"{module}.{node.attr}")}
        method = f".{node.attr}"
        if method in MAKERS or method in SETS_MADE or (method in VIEWS and self.views_join):
            return (MAKER,)
        root = root_of(node)
        return () if node.attr in DATA or (isinstance(root, ast.Name) and root.id in self.absent) else (FUNCTION,)

    def _of_call(self, node: ast.Call) -> Collection[str]:
        function = self._called(node)
        if function is None:
            returned = self._returned_by(node.func)
            # A name with several meanings, of which one is a listed function.
            kinds = self._kinds(node.func)
            made = (SET,) if SET_CLASS in kinds else ()
            return (*made, *(returned or ((ITERATOR, GROUPS) if MAKER in kinds else ())))
        if function == "itertools.groupby":
            return (GROUPS,)
        if function in MAKERS or function.startswith("itertools."):
            return (ITERATOR,)
        if function in _SET_CLASSES or function in SETS_MADE:
            return (SET,)
        if function in VIEWS and self.views_join:
            return (VIEW,)
        base: Any = node.func
        if function == ".copy" and SET in self._kinds(base.value):
            return (SET,)
        return (FUNCTION,) if function == ".get" and TABLE in self._kinds(base.value) else ()

    def _returned_by(self, function: ast.AST) -> Collection[str]:
        """The kinds of what a call of this node returns, if it names functions of the code."""
        if not isinstance(function, ast.Name):
            return ()
        home = self._home(self.scope[id(function)], function.id)
        places = self.functions.get((home or self.top, function.id), ())
        return {kind for place in places for kind in self.returned.get(place, ())}

    def _of_subscript(self, node: ast.Subscript) -> Collection[str]:
        return (FUNCTION,) if TABLE in self._kinds(node.value) else ()

    def _of_dict(self, node: ast.Dict) -> Collection[str]:
        return (TABLE,) if any(FUNCTION in self._kinds(value) for value in node.values) else ()

    def _of_choice(self, node: ast.IfExp) -> Collection[str]:
        return {*self._kinds(node.body), *self._kinds(node.orelse)}

    def _of_set(self, node: Any) -> Collection[str]:
        stable = all(isinstance(part, ast.Constant) and isinstance(part.value, _STABLE) for part in node.elts)
        return (SET,) if self.sets_grow or not stable else ()

    def _of_operator(self, node: ast.BinOp) -> Collection[str]:
        return (SET,) if {SET, VIEW} & {*self._kinds(node.left), *self._kinds(node.right)} else ()

    def _called(self, call: ast.Call) -> str | None:
        """The name of the called function in this module's tables; None for a function that they cannot name."""
        function = call.func
        if isinstance(function, ast.Name):
            if function.id in self.assigned:
                return None
            origins = self.imported.get(function.id, {function.id})
            return next(iter(origins)) if len(origins) == 1 else None
        if not isinstance(function, ast.Attribute):
            return None
        base = function.value
        if isinstance(base, ast.Name) and base.id in self.modules:
            found = self.modules[base.id]
            return f"{next(iter(found))}.{function.attr}" if len(found) == 1 else None
        return f".{function.attr}"

    def _in_place(self, node: ast.AST, kind: str) -> bool:
        parent: Any = self.parents.get(id(node))
        if isinstance(parent, ast.Call):
            if parent.func is node:
                return kind in (FUNCTION, MAKER, SET_CLASS)
            return self._may_receive(parent, node, kind)
        if kind == MAKER:
            return False
        if kind == SET_CLASS:
            return isinstance(parent, ast.Compare) or self._only_names_type(node)
        if isinstance(parent, ast.Expr) or (isinstance(parent, _TESTS) and node is parent.test):
            return True
        if isinstance(parent, ast.UnaryOp):
            return isinstance(parent.op, ast.Not)
        if isinstance(parent, (ast.Assign, ast.AnnAssign)):
            targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
            unpacked = (ast.Tuple, ast.List) if kind in (ITERATOR, VIEW) else ()
            return node is parent.value and all(isinstance(target, (ast.Name, *unpacked)) for target in targets)
        if isinstance(parent, ast.IfExp):
            return True
        if isinstance(parent, ast.Return):
            return kind in (FUNCTION, TABLE)
        if kind in (SET, VIEW):
            if isinstance(parent, ast.BinOp):
                return isinstance(parent.op, _SET_OPERATORS)
            if isinstance(parent, ast.Compare):
                return True
        if kind == SET:
            if not isinstance(parent, ast.Attribute):
                return False
            method, call = f".{parent.attr}", self.parents.get(id(parent))
            copied = method == ".copy" and isinstance(call, ast.Call) and call.func is parent
            return copied or method in SET_METHODS or method in SET_CHANGES
        if isinstance(parent, ast.Compare):
            if len(parent.ops) > 1:
                return False
            reads = isinstance(parent.ops[0], (ast.In, ast.NotIn)) and node is parent.comparators[0]
            same = isinstance(parent.ops[0], (ast.Is, ast.IsNot, ast.Eq, ast.NotEq))
            return reads if kind in (ITERATOR, TABLE) else same
        if isinstance(parent, (ast.For, ast.comprehension)) and node is parent.iter:
            if kind == GROUPS:
                target = parent.target
                return isinstance(target, ast.Tuple) and [type(part) for part in target.elts] == [ast.Name, ast.Name]
            return kind in (ITERATOR, VIEW, TABLE)
        if kind == FUNCTION:
            if isinstance(parent, ast.keyword):
                call = self.parents[id(parent)]
                return parent.arg == "key" and isinstance(call, ast.Call) and self._called(call) in KEYED
            return isinstance(parent, ast.Dict) and node in parent.values
        if kind == TABLE:
            if isinstance(parent, ast.Attribute):
                call = self.parents[id(parent)]
                return parent.attr in ("get", "keys") and isinstance(call, ast.Call) and call.func is parent
            return isinstance(parent, ast.Subscript) and node is parent.value
        if kind in (ITERATOR, VIEW):
            added = isinstance(parent, ast.AugAssign) and isinstance(parent.op, ast.Add)
            return added or isinstance(parent, ast.Starred)
        return False

    def _may_receive(self, call: ast.Call, node: ast.AST, kind: str) -> bool:
        """Whether the called function reads or calls this argument and keeps neither it nor, of a set, its order."""
        if not self.in_module:
            return False  # in the text of an `eval`, any name may have another meaning
        function = self._called(call) or ""
        place = next(index for index, argument in enumerate(call.args) if argument is node)
        if any(isinstance(argument, ast.Starred) for argument in call.args[:place]):
            return False
        if kind == FUNCTION:
            return CALLS.get(function) == place
        if kind == TABLE:
            return function in KEYS_READ and place == 0
        if kind == SET_CLASS:
            return function == "isinstance" and place == 1
        if kind in (SET, VIEW) and (function in ORDER_BLIND or function in SET_METHODS):
            return True
        if function in ("min", "max") and len(call.args) > 1:
            return False  # returns one of its arguments
        places = READS.get(function, ())
        return kind in (ITERATOR, VIEW) and (place in places or _ANY in places)

    def _only_names_type(self, node: Any) -> bool:
        """Whether a class only says of what type a value is, in an annotation or in a tuple of types."""
        parent: Any = self.parents.get(id(node))
        if isinstance(parent, ast.Tuple):
            outer = self.parents.get(id(parent))
            compared = isinstance(outer, ast.Compare)
            return compared or (isinstance(outer, ast.Call) and self._may_receive(outer, parent, SET_CLASS))
        while isinstance(parent, ast.Subscript) or (isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.BitOr)):
            if isinstance(parent, ast.Subscript) and node is not parent.value:
                return False
            node, parent = parent, self.parents.get(id(parent))
        return node in (getattr(parent, "annotation", None), getattr(parent, "returns", None))
