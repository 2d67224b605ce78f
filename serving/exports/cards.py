"""The README.md of an exported folder: its content, how to load it, and how to publish it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serving.exports.labels import LabelSettings
from serving.exports.tables import LLAMA_FACTORY_TAGS

_USE = {
    "trl": """\
```python
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer
from serving.trl_reward import reward_func  # of the repository that wrote this folder

trainer = GRPOTrainer(\
model, reward_funcs=reward_func, train_dataset=load_dataset("{folder}")["{split}"], args=GRPOConfig())
```""",
    "verl": """\
```bash
python -m verl.trainer.main_ppo data.train_files={folder}/{split}.parquet data.prompt_key=prompt \\
    reward.custom_reward_function.path=serving/verl_reward.py reward.custom_reward_function.name=compute_score
```""",
}
_READ = {
    "trl": """\
```python
from datasets import load_dataset
from trl import SFTTrainer

trainer = SFTTrainer(model, train_dataset=load_dataset("{folder}")["{split}"])  # reads `messages` and `tools`
```

Axolotl, in its configuration:

```yaml
datasets:
  - path: {folder}
    split: {split}
    type: chat_template
    field_messages: messages
    field_tools: tools
```""",
    "llama-factory": """\
`dataset_info.json` describes the files to LLaMA-Factory:

```yaml
dataset_dir: {folder}
dataset: ftrl_{split}
template: qwen3
```""",
}


def write_card(folder: Path, kind: str, counts: Mapping[str, int], settings: LabelSettings, reader: str) -> None:
    """Write `<folder>/README.md` with front matter for `datasets`, and `dataset_info.json` for LLaMA-Factory."""
    if kind == "sft" and reader == "llama-factory":
        (folder / "dataset_info.json").write_text(json.dumps(_dataset_info(counts), indent=2) + "\n", encoding="utf-8")
    use = _READ[reader] if kind == "sft" else _USE[kind]
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
        *(["Tools and calls are JSON text.", ""] if reader != "trl" else []),
        *(
            ["The column `label` (verl: `ground_truth`) holds the gold answers: keep it from the model.", ""]
            if reward
            else []
        ),
        use.format(folder=".", split=next(iter(counts))),
        "",
        "Publish: `hf upload --repo-type dataset NAME .`",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _dataset_info(splits: Iterable[str]) -> dict[str, Any]:
    columns = {"messages": "messages", "tools": "tools"}
    described = {"formatting": "openai", "columns": columns, "tags": LLAMA_FACTORY_TAGS}
    return {f"ftrl_{split}": {"file_name": f"{split}.parquet", **described} for split in splits}
