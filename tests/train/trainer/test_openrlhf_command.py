"""OpenRLHF's command: OpenRLHF's own parser accepts every experiment, and the paper's numbers are in the flags."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput
from train.experiments import ALGORITHMS, experiment, matrix
from train.trainer.memory_plan import ADAPTER_RANK
from train.trainer.openrlhf_command import (
    Launch,
    build_command,
    build_flags,
    check_batches,
    overrides,
    reward_environment,
)
from train.trainer.turn_credit import CREDIT_VARIABLE

ROOT = Path(__file__).resolve().parents[3]


def launch(name: str, **changes: Any) -> Launch:
    row = experiment(name)
    values = {"policy": f"models/{row.model.name}", "prompts": "prompts.jsonl", "out": Path("out"), "samples": 512}
    return Launch(**{**values, "seed": 1, "gpus": row.gpus, **changes})


def flags_of(name: str, **changes: Any) -> list[str]:
    return build_flags(experiment(name), launch(name, **changes))


OTHER_LAUNCHES = {
    "released": flags_of("qwen3-8b-plain-grpo", preset="released"),
    "two nodes": flags_of("qwen3-14b-thinking-grpo", nodes=2),
    "saved state": flags_of("tiny-plain-grpo", save_steps=5),
    "one card": flags_of("qwen3-4b-plain-grpo", gpus=1),
    "48 GB": flags_of("qwen3-8b-plain-grpo", gpu_gib=47.9),
    "no card": flags_of("smollm2-135m-plain-grpo", gpus=0),
    "without flash-attn": flags_of("qwen3-8b-plain-grpo", flash_attention=False),
    "without a compiler": flags_of("qwen3-8b-plain-grpo", compiler=False),
}


@pytest.fixture(scope="module")
def parsed(openrlhf_script: Callable[..., list[str]]) -> dict[str, dict[str, Any]]:
    """Every distinct command of the matrix (reward settings are not flags) and of other launches, in one process."""
    names: dict[str, str] = {}
    for row in matrix():
        names.setdefault(json.dumps(flags_of(row.name)), row.name)
    commands = {name: flags_of(name) for name in names.values()} | OTHER_LAUNCHES
    lines = "\n".join(map(json.dumps, commands.values()))
    found = openrlhf_script("PARSED ", Path(__file__).with_name("parse_with_openrlhf.py"), stdin=lines)
    return dict(zip(commands, map(json.loads, found), strict=True))


def test_openrlhf_parses_every_model_mode_and_algorithm(parsed: dict[str, dict[str, Any]]) -> None:
    rows = [experiment(name) for name in parsed if name not in OTHER_LAUNCHES]
    found = {(row.model.name, row.thinking, row.algorithm) for row in rows}
    assert found == {(row.model.name, row.thinking, row.algorithm) for row in matrix()}
    more = {(row.model.name, row.thinking, bool(row.episode), row.adapter) for row in rows}
    assert more == {(row.model.name, row.thinking, bool(row.episode), row.adapter) for row in matrix()}


def value_at(values: dict[str, Any], path: str) -> Any:
    for part in path.split("."):
        values = values[part]
    return values


# Row of the table in paper/README.md -> where OpenRLHF keeps it, and the paper's value.
PAPER = [
    ("learning rate", "actor.adam.lr", 1e-6),
    ("schedule", "actor.lr_scheduler", "constant"),
    ("warm-up", "actor.lr_warmup_ratio", 0.0),
    ("AdamW betas", "actor.adam.betas", [0.9, 0.999]),
    ("weight decay", "actor.adam.weight_decay", 0.01),
    ("gradient clip", "actor.max_norm", 1.0),
    ("prompts a rollout batch", "rollout.batch_size", 512),
    ("mini-batch of 32 prompts, in samples", "train.batch_size", 32 * 16),
    ("passes over a batch", "train.max_epochs", 1),
    ("passes over the prompts", "train.num_episodes", 1),
    ("rollouts a prompt", "rollout.n_samples_per_prompt", 16),
    ("temperature", "rollout.temperature", 1.0),
    ("nucleus", "rollout.top_p", 1.0),
    ("PPO clip", "actor.eps_clip_low_high", [0.2, 0.2]),
    ("dual clip", "actor.dual_clip", 3.0),
    ("loss aggregation", "actor.loss_agg_mode", "seq-mean-token-mean"),
    ("policy loss", "actor.policy_loss_type", "ppo"),
    ("KL as loss, not in the reward", "algo.kl.use_loss", True),
    ("KL estimator", "algo.kl.estimator", "k3"),
    ("KL coefficient", "algo.kl.init_coef", 0.001),
    ("KL coefficient is fixed", "algo.kl.target", None),
    ("entropy coefficient", "actor.entropy_coef", 0.001),
    ("discount", "algo.advantage.gamma", 1.0),
    ("no correction of the sampler's probabilities", "algo.advantage.is_correction_level", "off"),
    ("prompts come rendered", "data.apply_chat_template", False),
    ("cards a node", "actor.num_gpus_per_node", 8),
    ("nodes", "actor.num_nodes", 1),
]


@pytest.mark.parametrize(("row", "path", "expected"), PAPER, ids=[row for row, _, _ in PAPER])
def test_hyperparameters_of_the_paper(parsed: dict[str, dict[str, Any]], row: str, path: str, expected: Any) -> None:
    for name in ("qwen2.5-7b-plain-grpo", "qwen3-8b-plain-grpo", "qwen3-14b-thinking-reinforce++"):
        assert value_at(parsed[name], path) == expected


@pytest.mark.parametrize(
    ("algorithm", "estimator"),
    [
        ("grpo", "group_norm"),
        ("reinforce++", "reinforce"),
        ("reinforce++-baseline", "reinforce_baseline"),
        ("rloo", "rloo"),
        ("dr-grpo", "dr_grpo"),
        ("gspo", "group_norm"),
        ("ppo", "gae"),
    ],
)
def test_estimator_of_each_algorithm(parsed: dict[str, dict[str, Any]], algorithm: str, estimator: str) -> None:
    assert algorithm in ALGORITHMS
    found = parsed[f"qwen3-8b-plain-{algorithm}"]
    assert value_at(found, "algo.advantage.estimator") == estimator
    assert (value_at(found, "critic.model_name_or_path") is not None) == (algorithm == "ppo")


def test_an_algorithms_own_flags_win_over_the_shared_ones(parsed: dict[str, dict[str, Any]]) -> None:
    gspo, dr_grpo = parsed["qwen3-8b-plain-gspo"]["actor"], parsed["qwen3-8b-plain-dr-grpo"]["actor"]
    assert (gspo["policy_loss_type"], gspo["eps_clip_low_high"]) == ("gspo", [3e-4, 4e-4])
    assert dr_grpo["loss_agg_mode"] == "token-mean"


def test_lengths_follow_the_mode(parsed: dict[str, dict[str, Any]]) -> None:
    plain, thinking = parsed["qwen3-8b-plain-grpo"], parsed["qwen3-8b-thinking-grpo"]
    assert (plain["data"]["max_len"], plain["rollout"]["max_new_tokens"]) == (16384 + 1024, 1024)
    assert (thinking["data"]["max_len"], thinking["rollout"]["max_new_tokens"]) == (16384 + 8192, 8192)


def test_released_preset_differs_in_temperature_alone() -> None:
    paper, released = flags_of("qwen3-8b-plain-grpo"), OTHER_LAUNCHES["released"]
    differing = [(before, a, b) for before, a, b in zip(paper, paper[1:], released[1:], strict=False) if a != b]
    assert differing == [("--rollout.temperature", "1.0", "0.7")]


def test_state_is_saved_and_loaded_only_where_it_is_asked_for(parsed: dict[str, dict[str, Any]]) -> None:
    saved, unsaved = parsed["saved state"]["ckpt"], parsed["tiny-plain-grpo"]["ckpt"]
    assert (saved["save_steps"], saved["load_enable"], saved["disable_ds"]) == (5, True, False)
    assert saved["max_num"] == 2, "the last good state outlives the writing of the next"
    assert (unsaved["save_steps"], unsaved["load_enable"], unsaved["disable_ds"]) == (-1, False, True)


def test_episodes_are_played_by_the_agent_within_the_same_lengths(parsed: dict[str, dict[str, Any]]) -> None:
    found, prefixes = parsed["qwen3-8b-plain-grpo-episode"], parsed["qwen3-8b-plain-grpo"]
    assert Path(found["train"]["agent_func_path"]) == ROOT / "train" / "agent.py"
    assert found["reward"]["remote_url"] == ["agent"]
    assert prefixes["train"]["agent_func_path"] is None
    assert (found["data"], found["rollout"]) == (prefixes["data"], prefixes["rollout"])


def test_adapters_are_parsed_with_whole_layers_on_one_card(parsed: dict[str, dict[str, Any]]) -> None:
    found = parsed["qwen3-8b-plain-grpo-lora"]
    assert (found["ds"]["lora"]["rank"], found["ds"]["lora"]["alpha"]) == (ADAPTER_RANK, ADAPTER_RANK)
    assert found["ds"]["lora"]["target_modules"] == "all-linear"
    assert (found["ds"]["zero_stage"], found["actor"]["num_gpus_per_node"], found["vllm"]["num_engines"]) == (2, 1, 1)
    assert found["vllm"]["enable_sleep"] and not found["ds"]["adam_offload"]
    assert not any(values["ds"]["enable_sleep"] for values in parsed.values()), (
        "DeepSpeed has it for its own Adam alone"
    )
    assert found["ckpt"]["output_dir"].endswith("adapter")
    assert parsed["qwen3-8b-plain-grpo"]["ds"]["lora"]["rank"] == 0
    assert parsed["one card"]["vllm"]["gpu_memory_utilization"] == found["vllm"]["gpu_memory_utilization"] == 0.4


def test_every_card_of_every_node_gets_an_engine(parsed: dict[str, dict[str, Any]]) -> None:
    found = parsed["two nodes"]
    assert (found["actor"]["num_nodes"], found["ref"]["num_nodes"], found["vllm"]["num_engines"]) == (2, 2, 16)


def test_without_flash_attention_batches_are_padded(parsed: dict[str, dict[str, Any]]) -> None:
    without, with_it = parsed["without flash-attn"], parsed["qwen3-8b-plain-grpo"]
    assert (without["ds"]["attn_implementation"], without["ds"]["packing_samples"]) == ("sdpa", False)
    assert (with_it["ds"]["attn_implementation"], with_it["ds"]["packing_samples"]) == ("flash_attention_2", True)
    same = {**without["ds"], "attn_implementation": "flash_attention_2", "packing_samples": True}
    # micro-batches are filled by tokens only where sequences are packed
    assert not without["train"]["dynamic_batch_enable"] and with_it["train"]["dynamic_batch_enable"]
    for name, keys in (("train", ("dynamic_batch_enable", "max_tokens_per_gpu")), ("rollout", ("max_tokens_per_gpu",))):
        same_budget = {key: with_it[name][key] for key in keys}
        without = {**without, name: {**without[name], **same_budget}}
    assert {**without, "ds": same} == with_it


def test_without_a_compiler_there_are_no_cuda_graphs(parsed: dict[str, dict[str, Any]]) -> None:
    assert (
        parsed["without a compiler"]["vllm"]["enforce_eager"]
        and not parsed["qwen3-8b-plain-grpo"]["vllm"]["enforce_eager"]
    )


def launcher_options(name: str, **changes: Any) -> list[str]:
    command = build_command(flags_of(name, **changes), launch(name, **changes), {})
    assert command[:3] == [sys.executable, "-m", "train.trainer.openrlhf_launcher"]
    return command[3 : command.index("--")]


def test_one_launcher_with_the_adaptations_of_each_route() -> None:
    cpu, gpus = ["--gpus", "0", "--threads", "1"], ["--gpus", "8", "--threads", "12"]
    assert launcher_options("tiny-plain-grpo") == [*cpu, "--adapt", "cpu,no-flash-attn"]
    assert launcher_options("tiny-plain-grpo-lora") == [*cpu, "--adapt", "cpu,no-flash-attn,lora"]
    assert launcher_options("qwen3-8b-plain-grpo", threads=12) == gpus
    assert launcher_options("qwen3-8b-plain-grpo", threads=12, flash_attention=False) == [
        *gpus,
        "--adapt",
        "no-flash-attn",
    ]
    assert launcher_options("qwen3-8b-plain-grpo-lora", gpus=8, threads=12) == [*gpus, "--adapt", "lora"]


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        (
            "qwen3-8b-plain-grpo",
            {"gpus": 3},
            r"train batch of 512 samples does not divide into micro-batches of 1 on 3 GPUs",
        ),
        ("qwen3-8b-plain-grpo", {"gpus": 8, "nodes": 3}, r"on 24 GPUs; use a number of GPUs that divides 512"),
        (
            "tiny-plain-grpo",
            {"gpus": 4},
            r"train batch of 32 samples does not divide into micro-batches of 16 on 4 GPUs",
        ),
        ("smollm2-135m-plain-grpo", {"gpus": 32}, r"on 32 GPUs"),
        ("qwen3-8b-plain-grpo", {"gpus": 8, "nodes": 2}, ""),
        ("tiny-plain-grpo", {"gpus": 2}, ""),
        ("tiny-plain-grpo", {"gpus": 0}, ""),
    ],
)
def test_batches_that_do_not_divide_are_refused(name: str, changes: dict[str, int], complaint: str) -> None:
    if not complaint:
        check_batches(experiment(name), launch(name, **changes))
        return
    with pytest.raises(BadInput, match=complaint):
        check_batches(experiment(name), launch(name, **changes))


def test_every_row_of_the_matrix_divides_on_its_own_gpus() -> None:
    for row in matrix():
        check_batches(row, launch(row.name))


def test_a_cluster_is_joined_by_its_address() -> None:
    assert launcher_options("qwen3-8b-plain-grpo", ray_address="10.0.0.1:6379")[-2:] == ["--join", "10.0.0.1:6379"]


def test_a_job_gets_settings_and_interpreter() -> None:
    far = launch("qwen3-8b-plain-grpo", ray_address="http://head:8265", threads=4)
    command = build_command(["--flag"], far, {"FTRL_REWARD_MATCH": "strict"})
    assert command[0] == str(Path(sys.executable).with_name("ray"))
    assert command[1:5] == ["job", "submit", "--address", "http://head:8265"]
    runtime = json.loads(command[command.index("--runtime-env-json") + 1])
    assert runtime["py_executable"] == sys.executable
    variables = runtime["env_vars"]
    assert (variables["FTRL_REWARD_MATCH"], variables["OMP_NUM_THREADS"]) == ("strict", "4")
    assert variables["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    entry = command[command.index("--") + 1 :]
    own = ["--gpus", "8", "--threads", "4", "--join", "auto"]
    assert entry == [sys.executable, "-m", "train.trainer.openrlhf_launcher", *own, "--", "--flag"]


@pytest.mark.parametrize(("name", "file"), [("grpo", "reward/openrlhf_reward.py"), ("grpo-episode", "train/agent.py")])
def test_the_scoring_file_is_named_by_its_absolute_path(name: str, file: str) -> None:
    assert flags_of(f"qwen3-8b-plain-{name}")[3] == str(ROOT / file)


def test_reward_settings_come_from_the_name_and_a_control_overrides_it() -> None:
    settings = reward_environment(experiment("tiny-plain-grpo-solve-pr-strict"), "shuffled", 3)
    assert settings == {
        "FTRL_REWARD_VARIANT": "solve_pr",
        "FTRL_REWARD_MATCH": "strict",
        "FTRL_REWARD_CONTROL": "shuffled",
        "FTRL_REWARD_SEED": "3",
    }
    outcome = reward_environment(experiment("tiny-plain-grpo-outcome"), "", 3)
    assert (outcome["FTRL_EPISODE_REWARD"], len(outcome)) == ("answer", len(settings) + 1)
    assert reward_environment(experiment("tiny-plain-grpo-constant"), "", 0)["FTRL_REWARD_CONTROL"] == "constant"


def test_credit_per_turn_travels_as_a_variable_and_takes_no_control() -> None:
    row = experiment("tiny-plain-grpo-episode-credit-matchtir-hard")
    assert reward_environment(row, "", 3)[CREDIT_VARIABLE] == "matchtir-hard"
    assert flags_of(row.name) == flags_of("tiny-plain-grpo-episode"), "the trainer's flags are those of the episode row"
    for name, control in ((row.name, "shuffled"), (f"{row.name}-constant", "")):
        with pytest.raises(BadInput, match="one per turn; use the control with tiny-plain-grpo-episode"):
            reward_environment(experiment(name), control, 3)


def test_a_setting_of_openrlhf_wins_over_the_rows_and_wrong_ones_are_refused() -> None:
    assert overrides(["actor.adam.lr=5e-6", "actor.adam.betas=0.9 0.95"]) == [
        "--actor.adam.lr", "5e-6", "--actor.adam.betas", "0.9", "0.95",
    ]  # fmt: skip
    for wrong in (
        "actor.adam.lr",
        "lr=1",
        "--actor.adam.lr=1",
        "actor.adam.lr=",
        "rollout.batch_size=3",
        "data.max_len=9",
    ):
        with pytest.raises(BadInput, match="--set"):
            overrides([wrong])


def test_micro_batches_are_filled_by_tokens_where_sequences_are_packed(parsed: dict[str, dict[str, Any]]) -> None:
    paper = parsed["qwen3-8b-plain-grpo"]
    assert paper["train"]["dynamic_batch_enable"] and paper["ds"]["packing_samples"] and paper["ds"]["zero_stage"] == 3
    assert paper["train"]["max_tokens_per_gpu"] == paper["rollout"]["max_tokens_per_gpu"] == 16384 + 1024
    assert parsed["48 GB"]["train"]["max_tokens_per_gpu"] < 16384 + 1024
    for name in ("tiny-plain-grpo", "qwen3-8b-plain-grpo-lora", "qwen3.5-4b-plain-grpo", "no card"):
        assert not parsed[name]["train"]["dynamic_batch_enable"]


def test_engine_gets_room_for_its_weights_on_a_small_gpu() -> None:
    def share(**changes: Any) -> float:
        flags = flags_of("qwen2.5-7b-plain-grpo-lora", **changes)
        return float(flags[flags.index("--vllm.gpu_memory_utilization") + 1])

    assert share() == share(gpu_gib=79.6) == 0.4
    assert share(gpu_gib=23.9) > 14.2 / 23.9
