"""Axolotl's own chat-template strategy, on the output of `serving.export --to sft`: it trains on the gold calls.

Runs in a separate environment (.ci/faces.sh), with the version of `datasets` that Axolotl pins.
"""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

pytest.importorskip("axolotl", reason="Axolotl is installed in a separate environment: run .ci/faces.sh")
import yaml
from axolotl.prompt_strategies.chat_template import load
from axolotl.utils.dict import DictDefault
from datasets import load_dataset

ROOT = Path(__file__).resolve().parents[3]


def test_trains_on_the_calls_and_the_answer(written, learned):
    folder = written("trl")
    [card] = (folder / "README.md").read_text().split("```yaml\n")[1:]
    [settings] = yaml.safe_load(card.split("```")[0])["datasets"]
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets/tiny_policy")
    config = DictDefault({"sequence_len": 4096, "train_on_inputs": False, "eot_tokens": ["<|im_end|>"]})
    strategy = load(tokenizer, config, ds_cfg=settings)
    rows = load_dataset(str(folder), split=settings["split"])
    learned([strategy.tokenize_prompt(row) for row in rows], tokenizer)
