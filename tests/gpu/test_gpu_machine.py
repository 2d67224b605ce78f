"""A machine with a GPU: the sandbox's isolation in its kernel, the route that was asked for, engines that agree,
rewards in Ray.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox
from train.trainer.devices import choose_device, visible_gpus

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "assets" / "tiny_policy"


def test_the_sandbox_is_isolated_in_this_kernel() -> None:
    codes = {
        "add": "def add(a, b):\n    return a + b",
        "connect": "import socket\ndef connect():\n    return str(socket.socket())",
        "peek": "def peek():\n    return open('/etc/passwd').read()",
        "device": "import os\ndef device():\n    return os.listdir('/dev')",
    }
    with ToolSandbox(workers=2) as sandbox:
        added, *refused = sandbox.run(
            codes, [ToolCall("add", {"a": 1, "b": 2}), *(ToolCall(name, {}) for name in list(codes)[1:])]
        )
        layers = " ".join(sandbox.isolation)
    assert (added.status, added.output) == ("ok", "3")
    assert [result.status for result in refused] == ["error"] * 3
    assert "seccomp" in layers and "landlock" in layers.lower()


def test_the_route_that_is_asked_for_wins() -> None:
    assert visible_gpus() and choose_device("auto") == "cuda" and choose_device("cpu") == "cpu"
    code = (
        "import torch; from train.trainer.devices import choose_device; "
        "print(choose_device('auto'), torch.cuda.is_available())"
    )
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=hidden, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["cpu", "False"]


def test_vllm_and_transformers_write_the_same_greedy_tokens(environments: list[Environment]) -> None:
    """In float32, for the tiny policy: a difference would be a difference of the code, not of rounding."""
    from train.policies.interface import PolicyRequest
    from train.policies.specs import load_policy

    requests = [PolicyRequest(item, item.id, trial=0, turn=0, seed=0) for item in environments]
    written = {}
    for engine in ("hf", "vllm"):
        policy = load_policy(f"{engine}:{POLICY}", max_new_tokens=64, dtype="float32")
        written[engine] = [generation.text for generation in policy.generate(requests)]
    assert written["hf"] == written["vllm"]
    assert any(written["hf"])


def test_the_reward_scores_in_a_ray_worker_with_the_settings_that_were_asked_for(tmp_path: Path) -> None:
    """The real launcher's Ray, an actor that shares the GPU, and a recall reward: two solved by two calls pay 2, not
    4/3.
    """
    code = """
import json, os, sys
os.environ.update(FTRL_REWARD_VARIANT="solve_recall", FTRL_REWARD_MATCH="published")
os.environ.update(FTRL_REWARD_CONTROL="", FTRL_REWARD_SEED="0")
from train.trainer.openrlhf_launcher import start_ray
start_ray([], gpus=1, threads=1)
import ray
@ray.remote(num_gpus=0.2)
def score():
    import torch
    from reward.openrlhf_reward import reward_func
    label = json.dumps(dict(
        id="x", answer=None, solve_rate=0.0,
        codes=json.dumps({"f": "def f(x):\\n    return x * 2"}), unsolved_set=json.dumps({"f": ["ab" * 2, "cd" * 2]}),
    ))
    call = '<tool_call>\\n{"name": "f", "arguments": {"x": "%s"}}\\n</tool_call>'
    text = "p" + call % "ab" + call % "cd"
    answer = reward_func([text], ["p"], [label])
    return float(answer["rewards"][0]), torch.cuda.is_available()
print("found", json.dumps(ray.get(score.remote())))
"""
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    [found] = [line for line in answer.stdout.splitlines() if line.startswith("found ")] or [answer.stderr[-2000:]]
    assert json.loads(found.removeprefix("found ")) == [2.0, True]


@pytest.fixture(autouse=True)
def quiet_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
