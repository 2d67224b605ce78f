"""The README.md of an exported folder: what it holds, how it is loaded, how it is published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serving.exports.labels import LabelSettings

_USE = {
    "trl": """\
```python
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer
from serving.trl_reward import reward_func  # of the repository that wrote this folder

trainer = GRPOTrainer(model, reward_funcs=reward_func, train_dataset=load_dataset("{folder}")["{split}"], args=GRPOConfig())
```""",
    "verl": """\
```bash
python -m verl.trainer.main_ppo data.train_files={folder}/{split}.parquet data.prompt_key=prompt \\
    custom_reward_function.path=serving/verl_reward.py custom_reward_function.name=compute_score
```""",
    "sft": """\
```python
from datasets import load_dataset
from trl import SFTTrainer

trainer = SFTTrainer(model, train_dataset=load_dataset("{folder}")["{split}"])  # reads `messages` and `tools`
```
Axolotl: `type: chat_template`, `field_messages: messages`, `field_tools: tools`. LLaMA-Factory: export with `--text`, `formatting: openai`,
`columns: {{messages: messages, tools: tools}}`.""",
}


def write_card(folder: Path, kind: str, counts: Mapping[str, int], settings: LabelSettings, text: bool) -> None:
    """`<folder>/README.md`, with the front matter that `datasets.load_dataset(<folder>)` reads."""
    files = [f"  - split: {split}\n    path: {split}.parquet" for split in counts]
    reward = (
        ""
        if kind == "sft"
        else f"Reward of the labels: `{settings.reward}`, variant `{settings.variant}`, match `{settings.match}`."
    )
    lines = [
        "---",
        "task_categories:\n- text-generation",
        "tags:\n- tool-use\n- function-calling",
        "configs:\n- config_name: default\n  data_files:",
        *files,
        "---",
        "",
        "# Tool environments: " + ("conversations" if kind == "sft" else "prompts with their reward"),
        "",
        "| split | rows |",
        "| --- | --- |",
        *(f"| {split} | {count:,} |" for split, count in counts.items()),
        "",
        *([reward, ""] if reward else []),
        *(["Tools and arguments are JSON text.", ""] if text else []),
        *(
            ["The column `label` (verl: `ground_truth`) holds the gold answers: keep it from the model.", ""]
            if reward
            else []
        ),
        _USE[kind].format(folder=".", split=next(iter(counts))),
        "",
        "Publish: `hf upload --repo-type dataset NAME .`",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
