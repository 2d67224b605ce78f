"""LLaMA-Factory's own loader, on what `serving.export --to sft --reader llama-factory` wrote: it trains on the gold calls.

Runs in an environment of its own (.ci/faces.sh), with the version of `datasets` that LLaMA-Factory takes. Of torchaudio the package index
has builds for CUDA alone, which do not load beside a CPU torch; nothing here is sound, so an empty module stands in.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from transformers import AutoTokenizer, Seq2SeqTrainingArguments

if importlib.util.find_spec("llamafactory") is None:
    pytest.skip("LLaMA-Factory lives in an environment of its own: .ci/faces.sh", allow_module_level=True)
importlib.import_module("transformers.audio_utils")  # looks for torchaudio before the empty one is there
sys.modules["torchaudio"] = ModuleType("torchaudio")
data = importlib.import_module("llamafactory.data")
hparams = importlib.import_module("llamafactory.hparams")

TINY = Path(__file__).resolve().parents[3] / "assets/tiny_policy"


def test_it_trains_on_the_calls_and_the_answer(written, learned, tmp_path, monkeypatch):
    folder = written("llama-factory")
    [card] = (folder / "README.md").read_text().split("```yaml\n")[1:]
    monkeypatch.chdir(folder)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    settings = hparams.DataArguments(**yaml.safe_load(card.split("```")[0]), cutoff_len=4096)
    training = Seq2SeqTrainingArguments(str(tmp_path / "trained"), use_cpu=True, report_to=[], do_train=True)
    rows = data.get_dataset(
        data.get_template_and_fix_tokenizer(tokenizer, settings),
        hparams.ModelArguments(model_name_or_path=str(TINY)),
        settings,
        training,
        stage="sft",
        tokenizer=tokenizer,
    )["train_dataset"]
    learned(rows, tokenizer)
