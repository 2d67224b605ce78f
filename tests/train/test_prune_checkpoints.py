"""Only the weights of epochs that no later step reads are deleted."""

from pathlib import Path

import pytest

from env_construction.environment.jsonl import BadInput
from train.prune_checkpoints import prune_checkpoints


def training(folder: Path, epochs: int, done: int) -> Path:
    for epoch in range(1, epochs + 1):
        checkpoint = folder / f"epoch{epoch}" / "checkpoint"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model-00001-of-00002.safetensors").write_bytes(b"x" * 10)
        (checkpoint / "tokenizer.json").write_text("{}")
        if epoch <= done:
            (folder / f"epoch{epoch}" / "done.json").write_text("{}")
    return folder


def weights(folder: Path) -> list[str]:
    return sorted(file.parent.parent.name for file in folder.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("done", "kept"),
    [(0, ["epoch1", "epoch2", "epoch10"]), (1, ["epoch1", "epoch2", "epoch10"]), (2, ["epoch2", "epoch10"])],
)
def test_an_epochs_weights_are_deleted_only_when_the_next_epoch_is_done(tmp_path, done, kept) -> None:
    folder = training(tmp_path, 2, done)
    (tmp_path / "epoch10" / "checkpoint").mkdir(parents=True)  # unfinished; sorted after epoch 2, not after epoch 1
    (tmp_path / "epoch10" / "checkpoint" / "model.safetensors").write_bytes(b"x")
    assert prune_checkpoints(folder) == (10 if done == 2 else 0)
    assert weights(folder) == sorted(kept)
    assert prune_checkpoints(folder) == 0


def test_tokenizers_are_kept(tmp_path) -> None:
    folder = training(tmp_path, 3, 3)
    prune_checkpoints(folder)
    assert weights(folder) == ["epoch3"]
    assert all((folder / f"epoch{epoch}" / "checkpoint" / "tokenizer.json").is_file() for epoch in (1, 2, 3))


def test_a_folder_without_epochs_is_refused(tmp_path) -> None:
    with pytest.raises(BadInput, match="expected the folder of a training"):
        prune_checkpoints(tmp_path)
