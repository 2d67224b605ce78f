"""Delete the weights of epochs that a training no longer needs; tokenizer, configuration and logs stay.

Input: a training's folder with `epoch<k>/`. An epoch's weights go when the next epoch is done (its `done.json` is there): that next
epoch started from them, and nothing reads them again. So the last finished epoch is kept, and what an unfinished one starts from.

Example: python -m train.prune_checkpoints outputs/paper/train/qwen3-8b-plain-grpo
"""

from __future__ import annotations

import itertools
from pathlib import Path

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main

WEIGHTS = ("*.safetensors", "*.bin")


def prune_checkpoints(training: Path) -> int:
    """Bytes that were freed. Raises BadInput if the folder holds no epoch."""
    epochs = sorted(
        (int(folder.name[5:]), folder) for folder in training.glob("epoch[0-9]*") if folder.name[5:].isdigit()
    )
    if not epochs:
        raise BadInput(f"{training}: expected the folder of a training, with epoch1/ in it")
    freed = 0
    for (_, folder), (_, following) in itertools.pairwise(epochs):
        if not (following / "done.json").is_file():
            continue
        for pattern in WEIGHTS:
            for file in (folder / "checkpoint").glob(pattern):
                freed += file.stat().st_size
                file.unlink()
    return freed


def main() -> int:
    parser = ScriptParser(__doc__, "python -m train.prune_checkpoints")
    parser.add_argument("training", help="folder with epoch1/, epoch2/, ...")
    training = Path(parser.parse_args().training)
    print(
        f"{training}: {prune_checkpoints(training) / 1024**3:.1f} GiB of earlier epochs' weights deleted (--keep-checkpoints keeps them)"
    )
    return 0


if __name__ == "__main__":
    run_main(main)
