"""The worker side of BFCL's memory categories: cases, the tools on a state that is passed along, the answer's check.

eval/bfcl_support/checker.py calls it. A call gets the memory's state and returns the new one, so nothing is kept here.

**The one replacement.** The package's base class imports a decorator, `final`, from the distribution `overrides`; here
it is the one of the standard library. `memory_kv` needs the distribution `rank-bm25` for its search.

Source: PyPI bfcl-eval 2026.3.23, `func_source_code/memory_*.py`, `model_handler/utils.py`, `agentic_checker.py`.
"""

from __future__ import annotations

import copy
import importlib
import json
import sys
import typing
from collections.abc import Mapping
from types import ModuleType
from typing import Any

STATE = {"memory_kv": ("core_memory", "archival_memory"), "memory_rec_sum": ("memory",)}


def memory_instance(category: str, state: Mapping[str, Any] | None) -> Any:
    """The package's memory of a category, with this state (None: empty)."""
    if "overrides" not in sys.modules:
        stand_in = ModuleType("overrides")
        stand_in.final = typing.final  # type: ignore[attr-defined]
        sys.modules["overrides"] = stand_in
    classes = importlib.import_module("bfcl_eval.constants.executable_backend_config").CLASS_FILE_PATH_MAPPING
    name = f"MemoryAPI_{category.removeprefix('memory_')}"
    instance = getattr(importlib.import_module(classes[name]), name)()
    for key, value in (state or {}).items():
        setattr(instance, key, copy.deepcopy(value))
    return instance


def memory_prompt(category: str, scenario: str, state: Mapping[str, Any] | None) -> str:
    """The package's system prompt: the role, and what of the memory is always shown."""
    prompts = importlib.import_module("bfcl_eval.constants.default_prompts")
    unified = category == "memory_rec_sum"
    template = (
        prompts.MEMORY_BACKEND_INSTRUCTION_UNIFIED if unified else prompts.MEMORY_BACKEND_INSTRUCTION_CORE_ARCHIVAL
    )
    shown = memory_instance(category, state)._dump_core_memory_to_context()
    return str(template.format(scenario_setting=prompts.MEMORY_AGENT_SETTINGS[scenario], memory_content=shown))


def memory_call(category: str, state: Mapping[str, Any] | None, call: Mapping[str, Any]) -> dict[str, Any]:
    """Run one call: `{"output": text, "state": the new state}`. Only public methods of the memory can be called."""
    instance = memory_instance(category, state)
    name = str(call["name"])
    method = None if name.startswith("_") else getattr(type(instance), name, None)
    if not callable(method):
        output: Any = f"Error during execution: {name[:100]!r} is no function of this memory"
    else:
        try:
            output = method(instance, **call["arguments"])
        except Exception as error:
            output = f"Error during execution: {error}"
    try:
        text = output if isinstance(output, str) else json.dumps(output)
    except (TypeError, ValueError):
        text = str(output)
    return {"output": text, "state": {key: getattr(instance, key) for key in STATE[category]}}


def memory_cases(data: Any, category: str, limit: int | None) -> dict[str, Any]:
    """The questions with their scenario and accepted answers, the conversations by scenario, the tools' documents.

    `data`: the package's module `utils`.
    """
    entries = data.load_dataset_entry(category, include_prereq=True, include_language_specific_hint=False)
    gold = [known["ground_truth"] for known in data.load_ground_truth_entry(category)]
    asked = [entry for entry in entries if not data.is_memory_prereq(entry["id"])]
    questions = [
        {"id": entry["id"], "scenario": entry["scenario"], "question": entry["question"][0], "gold": answers}
        for entry, answers in zip(asked, gold, strict=True)
    ][:limit]
    told = [entry for entry in entries if data.is_memory_prereq(entry["id"])]
    conversations: dict[str, list[Any]] = {}
    for scenario in dict.fromkeys(question["scenario"] for question in questions):
        conversations[scenario] = [entry["question"] for entry in told if entry["scenario"] == scenario]
    return {"questions": questions, "conversations": conversations, "functions": asked[0]["function"]}


def memory_answer_is_right(said: str, accepted: list[str]) -> bool:
    """The package's verdict on the final message."""
    checker = importlib.import_module("bfcl_eval.eval_checker.agentic_eval.agentic_checker")
    return bool(checker.agentic_checker(said, accepted)["valid"])
