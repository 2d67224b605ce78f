"""The process that runs the package `tau2` (tau2-bench): tasks, tools with their state, and its own evaluators.

It runs under the interpreter of that package's environment, which has none of this project's requirements, so it
imports only the standard library and eval/graders/line_process.py. eval/tau/tau2_process.py starts it.

The package's imports are slow and log much, so its log goes nowhere. No language model is asked: assertions in natural
language, which the package gives to a judge, are left out and reported (`unjudged`).

Example (one request by hand, in the folder of this repository):
    echo '{"op": "tasks", "domain": "mock", "split": null}' | PYTHONPATH=TAU2/src TAU2/.venv/bin/python \\
        -m eval.tau.tau2_worker

Source: the repository sierra-research/tau2-bench at commit a2c024725189: `environment/environment.py`, `evaluator/`.
"""

from __future__ import annotations

from typing import Any

from eval.graders.line_process import serve

MEMORY_BYTES = 8 << 30


class Worker:
    """Handles the requests. One environment per key, which names a case in play."""

    def __init__(self) -> None:
        from tau2.agent import llm_agent  # type: ignore[import-not-found]
        from tau2.data_model import message, tasks  # type: ignore[import-not-found]
        from tau2.evaluator.evaluator_action import ActionEvaluator  # type: ignore[import-not-found]
        from tau2.evaluator.evaluator_communicate import CommunicateEvaluator  # type: ignore[import-not-found]
        from tau2.evaluator.evaluator_env import EnvironmentEvaluator  # type: ignore[import-not-found]
        from tau2.registry import registry  # type: ignore[import-not-found]
        from tau2.user.user_simulator import UserSimulator  # type: ignore[import-not-found]

        self._agent, self._message, self._registry, self._user = llm_agent, message, registry, UserSimulator
        self._reward_types = tasks.RewardType
        self._evaluators = {
            "env": EnvironmentEvaluator,
            "action": ActionEvaluator,
            "communicate": CommunicateEvaluator,
        }
        self._tasks: dict[tuple[str, str], Any] = {}
        self._playing: dict[str, tuple[Any, int]] = {}

    def answer(self, request: Any) -> Any:
        operations = {"tasks": self.tasks, "call": self.call, "check": self.check, "forget": self.forget}
        return operations[request["op"]](request)

    def tasks(self, request: Any) -> dict[str, Any]:
        """The tasks of a domain's split: what agent and user see, and the right actions.

        Tasks that start in the middle of a recorded conversation are left out and counted.
        """
        domain, split = request["domain"], request["split"]
        loader = self._registry.get_tasks_loader(domain)
        found = loader(split)  # always named: the default of some domains is a split, not every task
        environment = self._registry.get_env_constructor(domain)()
        system = self._agent.SYSTEM_PROMPT.format(
            domain_policy=environment.get_policy(), agent_instruction=self._agent.AGENT_INSTRUCTION
        )
        tools = [tool.openai_schema for tool in environment.get_tools()]
        tasks, left_out = [], 0
        for task in found:
            self._tasks[domain, task.id] = task
            start, criteria = task.initial_state, task.evaluation_criteria
            if start is not None and start.message_history:
                left_out += 1
                continue
            user_tools = []
            if environment.user_tools is not None:
                user_tools = environment.get_user_tools(include=getattr(task, "user_tools", None))
            simulator = self._user(tools=user_tools or None, instructions=str(task.user_scenario), llm="none")
            actions = (criteria.actions if criteria else None) or []
            tasks.append(
                {
                    "id": task.id,
                    "instructions": str(task.user_scenario),
                    "user_system": simulator.system_prompt,
                    "user_tools": [tool.openai_schema for tool in user_tools],
                    "actions": [
                        {"name": action.name, "arguments": action.arguments, "requestor": action.requestor}
                        for action in actions
                    ],
                    "communicate": list((criteria.communicate_info if criteria else None) or []),
                }
            )
        return {"system": system, "tools": tools, "tasks": tasks, "left_out": left_out}

    def call(self, request: Any) -> dict[str, Any]:
        """Run one call on the state of `key`.

        Returns `{"unknown": true}` if that state does not have `after` earlier calls. The client then repeats the
        request with `journal`, the earlier calls, which run first.
        """
        key = request["key"]
        if request.get("journal") is not None:
            environment = self._environment(request["domain"], request["task"])
            for call in request["journal"]:
                self._run(environment, call)
            self._playing[key] = environment, len(request["journal"])
        elif key not in self._playing and request["after"] == 0:
            self._playing[key] = self._environment(request["domain"], request["task"]), 0
        environment, done = self._playing.get(key, (None, -1))
        if done != request["after"]:
            return {"unknown": True}
        message = self._run(environment, request["call"])
        self._playing[key] = environment, done + 1
        return {"output": message.content, "error": bool(message.error)}

    def _task(self, domain: str, task_id: str) -> Any:
        if (domain, task_id) not in self._tasks:  # this process replaces one that was killed
            self._tasks |= {(domain, task.id): task for task in self._registry.get_tasks_loader(domain)(None)}
        return self._tasks[domain, task_id]

    def _environment(self, domain: str, task_id: str) -> Any:
        environment = self._registry.get_env_constructor(domain)()
        start = self._task(domain, task_id).initial_state
        environment.set_state(
            initialization_data=start.initialization_data if start else None,
            initialization_actions=start.initialization_actions if start else None,
            message_history=[],
        )
        return environment

    def _run(self, environment: Any, call: Any) -> Any:
        made = {key: call[key] for key in ("id", "name", "arguments", "requestor")}
        return environment.get_response(self._message.ToolCall(**made))

    def check(self, request: Any) -> dict[str, Any]:
        """The package's reward for a conversation that the user ended: the product of the parts that the task names."""
        domain = request["domain"]
        task = self._task(domain, request["task"])
        kinds = {
            "assistant": self._message.AssistantMessage,
            "user": self._message.UserMessage,
            "tool": self._message.ToolMessage,
        }
        messages = [kinds[message["role"]](**message) for message in request["messages"]]
        types = self._reward_types
        parts = {
            "env": {types.DB, types.ENV_ASSERTION},
            "action": {types.ACTION},
            "communicate": {types.COMMUNICATE},
        }
        basis = set(task.evaluation_criteria.reward_basis) if task.evaluation_criteria else set()
        found: dict[str, Any] = {"reward": 1.0, "unjudged": bool(basis - set().union(*parts.values()))}
        for name, evaluator in self._evaluators.items():
            options = {}
            if name == "env":
                options = {"environment_constructor": self._registry.get_env_constructor(domain)}
            info = evaluator.calculate_reward(task=task, full_trajectory=messages, **options)
            if name == "env":
                found["db_match"] = info.db_check.db_match if info.db_check else None
            used = bool(parts[name] & basis)
            found[name] = info.reward if used else None
            found["reward"] *= info.reward if used else 1.0
        self.forget(request)
        return found

    def forget(self, request: Any) -> dict[str, Any]:
        """Drop the state of `key`."""
        self._playing.pop(request["key"], None)
        return {}


if __name__ == "__main__":
    serve(Worker().answer, MEMORY_BYTES)
