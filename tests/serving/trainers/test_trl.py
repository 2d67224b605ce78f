"""TRL's trainers on the output of `serving.export`: GRPO with our reward, and supervised training on conversations.

Runs in a separate environment (.ci/faces.sh); TRL is not a dependency of the project.
"""

from pathlib import Path

import pytest
from datasets import load_dataset

from env_construction.environment.schema import write_environments
from serving.exports.labels import LabelSettings
from serving.exports.tables import features_of, sft_row, trl_rows, write_tables
from serving.trl_reward import reward_func

trl = pytest.importorskip("trl", reason="TRL is installed in a separate environment: run .ci/faces.sh")
TINY = Path(__file__).resolve().parents[3] / "assets/tiny_policy"


def exported(rows, kind: str, folder: Path):
    write_tables(folder, rows, features_of(kind))
    return load_dataset(str(folder), cache_dir=str(folder / "cache"))["test"]


def test_grpo_runs_two_steps_on_the_tiny_policy_with_our_reward(environments, tmp_path):
    write_environments(tmp_path / "env.jsonl", environments)
    rows = trl_rows(environments, LabelSettings("solve_f1", "strict", "turn"))
    seen: list[list[float | None]] = []

    def reward(**arguments):
        seen.append(reward_func(**arguments))
        return seen[-1]

    trainer = trl.GRPOTrainer(
        str(TINY),
        reward_funcs=reward,
        train_dataset=exported(rows, "trl", tmp_path / "trl"),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path / "out"),
            max_steps=2,
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=48,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            seed=1,
        ),
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert len(seen) >= 2 and all(isinstance(value, float) for batch in seen for value in batch)
    logged = [entry for entry in trainer.state.log_history if "rewards/reward/mean" in entry]
    assert abs(logged[0]["rewards/reward/mean"] - sum(seen[0]) / len(seen[0])) < 1e-6


def test_supervised_training_reads_messages_and_tools(environments, tmp_path):
    conversations = [
        {"role": "user", "content": environments[0].question},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "capital_of", "arguments": {"country": "Fiji"}}}],
        },
        {"role": "tool", "name": "capital_of", "content": "Suva"},
        {"role": "assistant", "content": "The answer is Suva."},
    ]
    row = sft_row(environments[0], conversations, "oracle", solve_f1=1.0, answer_correct=True)
    trainer = trl.SFTTrainer(
        str(TINY),
        train_dataset=exported([row] * 4, "sft", tmp_path / "sft"),
        args=trl.SFTConfig(output_dir=str(tmp_path / "out"), max_steps=1, report_to=[], use_cpu=True, bf16=False),
    )
    text = trainer.processing_class.decode(trainer.train_dataset[0]["input_ids"])
    assert '{"name": "capital_of", "arguments": {"country": "Fiji"}}' in text and "larger_of" in text
    trainer.train()
    assert trainer.state.global_step == 1
