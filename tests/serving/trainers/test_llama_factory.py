"""LLaMA-Factory's own loader, on the output of `serving.export --to sft --reader llama-factory`.

It trains on the gold calls. Runs in a separate environment (.ci/faces.sh), with the version of `datasets` that
LLaMA-Factory requires. The package index has only CUDA builds of torchaudio, and these do not load with a CPU torch.
The test uses no audio, so an empty module replaces torchaudio.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from transformers import AutoTokenizer, Seq2SeqTrainingArguments

if importlib.util.find_spec("llamafactory") is None:
    pytest.skip("LLaMA-Factory is installed in a separate environment: run .ci/faces.sh", allow_module_level=True)
importlib.import_module("transformers.audio_utils")  # must run before the replacement: it checks for torchaudio
sys.modules["torchaudio"] = ModuleType("torchaudio")
data = importlib.import_module("llamafactory.data")
hparams = importlib.import_module("llamafactory.hparams")

TINY = Path(__file__).resolve().parents[3] / "assets/tiny_policy"


def test_trains_on_the_calls_and_the_answer(written, learned, tmp_path, monkeypatch):
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
