"""The process that runs the `bfcl-eval` package (data, tools, checkers); eval/bfcl_support/process.py starts it.

It reads JSON lines `{"op": ..., ...}` from standard input and writes one answer per line to standard output (`{"error":
...}` if the package raised). It is a separate process for three reasons: the package's tools have no limits (`power(9,
9**9)` does not end), its import creates folders, and its multi-turn executor keeps state in module globals and calls
`eval`.

**What is evaluated.** The executor evaluates call strings. A model's text never reaches it, because `call_text` builds
each string from a parsed call. The name must be a public method of the case's tool classes, each argument name must be
an identifier, and each value is written as a literal of JSON data. Anything else becomes a call to a nonexistent name,
which fails like an unknown function. Brackets inside strings are escaped, because the executor rewrites `name(`
wherever it occurs.

**The one replacement.** The AST checker imports the package's registry of 150 models, which imports every vendor's
client library, but reads only one flag of one entry. Here the registry has one entry, for this project: underscores
replace dots in function names (`underscore_to_dot`), as in the package's OpenAI-style function-calling handlers.

Example (one request by hand):
    echo '{"op": "cases", "category": "simple_java"}' | python -m eval.bfcl_support.checker

Source: PyPI bfcl-eval 2026.3.23 (BFCL v4), `eval_checker/` and `constants/`; its data are in the wheel.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import json
import keyword
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

from eval.bfcl_support import memory_tools
from eval.graders.line_process import serve

MODEL = "evaluated"
UNDEFINED_CALL = "no_such_function()"
MEMORY_BYTES = 4 << 30
REGISTRY = "bfcl_eval.constants.model_config"


class Checker:
    """Handles the requests. The cases of a category are loaded once."""

    def __init__(self) -> None:
        registry = ModuleType(REGISTRY)
        registry.MODEL_CONFIG_MAPPING = {MODEL: SimpleNamespace(underscore_to_dot=True)}  # type: ignore[attr-defined]
        sys.modules[REGISTRY] = registry
        load = importlib.import_module
        self._ast = load("bfcl_eval.eval_checker.ast_eval.ast_checker")
        self._language = load("bfcl_eval.constants.enums").Language
        self._executor = load("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils")
        self._multi_turn = load("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker")
        self._classes = load("bfcl_eval.constants.executable_backend_config").CLASS_FILE_PATH_MAPPING
        self._types = load("bfcl_eval.constants.type_mappings").GORILLA_TO_OPENAPI
        self._data = load("bfcl_eval.utils")
        self._by_category: dict[str, list[dict[str, Any]]] = {}
        self._entries: dict[str, dict[str, Any]] = {}
        self._gold: dict[str, Any] = {}
        self._methods: dict[str, dict[str, list[str]]] = {}

    def answer(self, request: Mapping[str, Any]) -> Any:
        operations: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "cases": self.cases,
            "check_single": self.check_single,
            "call": self.call,
            "check_multi": self.check_multi,
            "forget": self.forget,
            "memory_cases": self.memory_cases,
            "memory_prompt": lambda asked: memory_tools.memory_prompt(
                asked["category"], asked["scenario"], asked["state"]
            ),
            "memory_call": lambda asked: memory_tools.memory_call(asked["category"], asked["state"], asked["call"]),
            "check_memory": lambda asked: memory_tools.memory_answer_is_right(asked["said"], asked["accepted"]),
        }
        return operations[request["op"]](request)

    def cases(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The cases of a category as the model sees them, with the right calls (`gold`; per turn in multi-turn)."""
        category = request["category"]
        self._load(category)
        entries = copy.deepcopy(self._by_category[category][: request.get("limit")])
        cases = []
        for entry in self._data.add_language_specific_hint_to_function_doc(entries):
            held_out = entry.get("missed_function") or {}
            cases.append(
                {
                    "id": entry["id"],
                    "questions": entry["question"],
                    "tools": [self._tool(function) for function in entry["function"]],
                    "held_out": {turn: [self._tool(f) for f in functions] for turn, functions in held_out.items()},
                    "gold": self._gold_calls(category, entry["id"]),
                }
            )
        return cases

    def memory_cases(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The questions and conversations of a memory category (eval/bfcl_support/memory_tools.py)."""
        found = memory_tools.memory_cases(self._data, request["category"], request.get("limit"))
        return found | {"tools": [self._tool(function) for function in found.pop("functions")]}

    def _load(self, category: str) -> None:
        if category in self._by_category:
            return
        entries = self._by_category[category] = self._data.load_dataset_entry(
            category, include_prereq=False, include_language_specific_hint=False
        )
        self._entries |= {entry["id"]: entry for entry in entries}
        if "relevance" not in category:
            gold = self._data.load_ground_truth_entry(category)
            self._gold |= {entry["id"]: known["ground_truth"] for entry, known in zip(entries, gold, strict=True)}

    def _tool(self, function: Mapping[str, Any]) -> dict[str, Any]:
        parameters = self._schema(function["parameters"])
        return {**function, "name": function["name"].replace(".", "_"), "parameters": parameters | {"type": "object"}}

    def _schema(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """A parameter's document with JSON Schema type names, at every depth."""
        schema = dict(node)
        if node.get("type") == "float":
            schema |= {"format": "float", "description": f"{node.get('description', '')} This is a float type value."}
        schema["type"] = self._types.get(node.get("type"), "string")
        if isinstance(node.get("properties"), dict):
            schema["properties"] = {name: self._schema(child) for name, child in node["properties"].items()}
        if isinstance(node.get("items"), dict):
            schema["items"] = self._schema(node["items"])
        return schema

    def check_single(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Whether `calls` are correct in a single-turn case: `{"valid": bool, "error_type": str}`."""
        category, calls = request["category"], request["calls"]
        if "relevance" in category:
            valid = bool(calls) != ("irrelevance" in category)
            return {"valid": valid, "error_type": "" if valid else "called" if calls else "not_called"}
        self._load(category)
        language = next((name for name in ("java", "javascript") if category == f"simple_{name}"), "python")
        decoded = [{call["name"]: call["arguments"]} for call in calls]
        entry, gold = self._entries[request["id"]], self._gold[request["id"]]
        try:
            found = self._ast.ast_checker(entry["function"], decoded, gold, self._language(language), category, MODEL)
        except Exception as error:  # the checker raises for unexpected values, which are wrong
            return {"valid": False, "error_type": f"checker_raised:{type(error).__name__}"}
        return {"valid": bool(found["valid"]), "error_type": "" if found["valid"] else str(found["error_type"])}

    def call(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run one call on the state of `key`.

        Returns `{"unknown": true}` if that state does not have `after` earlier calls. The client must then repeat the
        request with `journal`, the earlier calls, which run first.
        """
        key, entry = request["key"], self._entry(request["id"])
        done = self._executor.__dict__.setdefault("_calls_of_key", {})
        if request.get("journal") is not None:
            self.forget(request)
            for call in request["journal"]:
                self._execute(key, entry, [self._text(entry, call)])
            done[key] = len(request["journal"])
        elif done.get(key, 0) != request["after"]:
            return {"unknown": True}
        call = request["call"]
        text = self._text(entry, call)
        done[key] = done.get(key, 0) + 1
        if text == UNDEFINED_CALL:
            return {
                "output": f"Error during execution: {str(call['name'])[:100]!r} is no function with these arguments"
            }
        return {"output": self._execute(key, entry, [text])[0]}

    def check_multi(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The package's verdict on all calls of a multi-turn case; `turns`: calls by turn and step."""
        entry, gold = self._entry(request["id"]), self._gold[request["id"]]
        turns = [[[self._text(entry, call) for call in step] for step in turn] for turn in request["turns"]]
        if len(turns) != len(gold):
            return {"valid": False, "error_type": "multi_turn:force_terminated"}
        category = request["id"].rsplit("_", 1)[0]
        try:
            found = self._multi_turn.multi_turn_checker(turns, gold, entry, category, request["key"])
        except Exception as error:
            return {"valid": False, "error_type": f"checker_raised:{type(error).__name__}"}
        finally:
            self.forget(request)
        return {"valid": bool(found["valid"]), "error_type": str(found.get("error_type", ""))}

    def forget(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Drop the instances of `key`, which the executor keeps as module globals."""
        globals_of_executor = self._executor.__dict__
        prefix = f"{request['key']}_"
        for name in [name for name in globals_of_executor if name.startswith(prefix)]:
            del globals_of_executor[name]
        globals_of_executor.get("_calls_of_key", {}).pop(request["key"], None)
        return {}

    def _entry(self, case_id: str) -> dict[str, Any]:
        self._load(case_id.rsplit("_", 1)[0])
        return self._entries[case_id]

    def _execute(self, key: str, entry: Mapping[str, Any], calls: list[str]) -> list[str]:
        outputs, _ = self._executor.execute_multi_turn_func_call(
            calls,
            entry["initial_config"],
            entry["involved_classes"],
            key,
            entry["id"],
            long_context="long_context" in entry["id"],
        )
        return list(outputs)

    def _text(self, entry: Mapping[str, Any], call: Mapping[str, Any]) -> str:
        return call_text(call["name"], call["arguments"], self._methods_of(entry["involved_classes"]))

    def _methods_of(self, classes: Sequence[str]) -> dict[str, list[str]]:
        """`{public method: its parameters}` of the tool classes."""
        methods: dict[str, list[str]] = {}
        for name in classes:
            if name not in self._methods:
                tool_class = getattr(importlib.import_module(self._classes[name]), name)
                self._methods[name] = {
                    method: [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
                    for method, function in inspect.getmembers(tool_class, inspect.isfunction)
                    if not method.startswith("_")
                }
            methods |= self._methods[name]
        return methods

    def _gold_calls(self, category: str, case_id: str) -> list[Any]:
        gold, entry = self._gold.get(case_id), self._entries[case_id]
        if category.startswith("multi_turn"):
            methods = self._methods_of(entry["involved_classes"])
            return [[_parsed_call(text, methods) for text in turn] for turn in gold or ()]
        if gold is None:
            function = entry["function"][0] if entry["function"] else None
            answer = {"name": function["name"].replace(".", "_"), "arguments": {}} if function else None
            return [answer] if answer and "irrelevance" not in category else []
        functions = {function["name"]: function["parameters"] for function in entry["function"]}
        return [
            {"name": name.replace(".", "_"), "arguments": _gold_arguments(accepted, functions[name], category)}
            for known in gold
            for name, accepted in known.items()
        ]


def call_text(name: str, arguments: Mapping[str, Any], methods: Mapping[str, Any]) -> str:
    """The call as the executor evaluates it, or UNDEFINED_CALL; only JSON literals come from the model."""
    if name not in methods or not all(key.isidentifier() and not keyword.iskeyword(key) for key in arguments):
        return UNDEFINED_CALL
    try:
        return f"{name}({','.join(f'{key}={_literal(value)}' for key, value in arguments.items())})"
    except RecursionError:
        return UNDEFINED_CALL


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return repr(value).replace("(", "\\x28")
    if isinstance(value, list):
        return f"[{','.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_literal(key)}:{_literal(item)}' for key, item in value.items())}}}"
    return repr(value)


def _parsed_call(text: str, methods: Mapping[str, list[str]]) -> dict[str, Any]:
    """The name and arguments of a gold call string; positional arguments get the method's parameter names."""
    call = ast.parse(text.strip(), mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(f"gold call {text!r}: expected name(arguments)")
    names = methods[call.func.id]
    arguments = {names[place]: ast.literal_eval(value) for place, value in enumerate(call.args)}
    arguments |= {str(argument.arg): ast.literal_eval(argument.value) for argument in call.keywords}
    return {"name": call.func.id, "arguments": arguments}


def _gold_arguments(
    accepted: Mapping[str, Sequence[Any]], parameters: Mapping[str, Any], category: str
) -> dict[str, Any]:
    """The first accepted value of each parameter, as a model would write it.

    A parameter that may be omitted ("" is accepted) is omitted.
    """
    arguments: dict[str, Any] = {}
    for name, values in accepted.items():
        document = parameters["properties"].get(name, {})
        if "" in values and name not in parameters["required"]:
            continue
        value = next((value for value in values if value != ""), "")
        if category == "simple_java":
            arguments[name] = _java_literal(value, document)
        elif category == "simple_javascript":
            arguments[name] = _javascript_literal(value, document.get("type", ""))
        else:
            arguments[name] = _chosen(value)
    return arguments


def _chosen(value: Any) -> Any:
    """The first accepted value for each key of an object; keys that may be absent are omitted."""
    if isinstance(value, list):
        return [_chosen(item) for item in value]
    if not isinstance(value, dict):
        return value
    chosen = {}
    for key, accepted in value.items():
        values = accepted if isinstance(accepted, list) else [accepted]
        found = next((item for item in values if item != ""), None)
        if found is not None:
            chosen[key] = _chosen(found)
    return chosen


def _java_literal(value: Any, document: Mapping[str, Any], quoted: bool = False) -> str:
    """A value as Java source. `quoted`: put strings in quotation marks.

    The checker removes the quotation marks in an ArrayList or HashMap, and keeps them in an array.
    """
    kind = document.get("type", "")
    if isinstance(value, str):
        return f'"{value}"' if quoted else value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        inner = document.get("items", {})
        items = ", ".join(_java_literal(item, inner, quoted=kind == "ArrayList") for item in value)
        return f"new ArrayList<>(Arrays.asList({items}))" if kind == "ArrayList" else f"new Object[]{{{items}}}"
    if isinstance(value, dict):
        puts = " ".join(
            f'put("{key}", {_java_literal(item, {}, quoted=True)});' for key, item in _chosen(value).items()
        )
        return f"new HashMap<String, Object>() {{{{ {puts} }}}}"
    return str(value) + {"long": "L", "float": "f"}.get(kind, "")


def _javascript_literal(value: Any, kind: str) -> str:
    if isinstance(value, str):
        return value
    if kind == "Bigint":
        return f"{value}n"
    return json.dumps(_chosen(value), ensure_ascii=False)


if __name__ == "__main__":
    serve(Checker().answer, MEMORY_BYTES)
