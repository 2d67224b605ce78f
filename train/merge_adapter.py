"""Merge a LoRA adapter into its base model: a full checkpoint for collection, evaluation and the next epoch.

Inputs: --base (checkpoint folder or hub name), --adapter (PEFT folder saved by OpenRLHF, with the tokenizer).
Output: --out, a checkpoint folder in the base's precision, with tokenizer and chat template.

Example:
    python -m train.merge_adapter --base Qwen/Qwen3-8B --adapter outputs/lora/epoch1/adapter \\
        --out outputs/lora/epoch1/checkpoint

`train.run_openrlhf` does this automatically at the end of each epoch of a `-lora` experiment.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main


def merge_adapter(base: str | Path, adapter: str | Path, out: str | Path) -> None:
    """Write `base` with `adapter` merged into it to `out`, atomically. Raises BadInput if the adapter does not fit."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter, out = Path(adapter), Path(out)
    configuration = adapter / "adapter_config.json"
    if not configuration.is_file():
        raise BadInput(f"{adapter}: expected the folder of a LoRA adapter, but it has no adapter_config.json")
    rank = json.loads(configuration.read_text(encoding="utf-8")).get("r")
    try:
        model = AutoModelForCausalLM.from_pretrained(str(base), dtype="auto")
        merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{adapter}: the adapter (rank {rank}) does not fit {base}: {first}") from None
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    merged.save_pretrained(partial)
    AutoTokenizer.from_pretrained(str(adapter)).save_pretrained(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.replace(out)


def main() -> int:
    parser = ScriptParser(__doc__, "python -m train.merge_adapter")
    parser.add_argument("--base", required=True, help="base model of the adapter: folder or hub name")
    parser.add_argument("--adapter", required=True, help="PEFT folder of the adapter")
    parser.add_argument("--out", required=True, help="checkpoint folder to write")
    arguments = parser.parse_args()
    merge_adapter(arguments.base, arguments.adapter, arguments.out)
    print(f"wrote {arguments.out}: {arguments.base} with {arguments.adapter} merged")
    return 0


if __name__ == "__main__":
    run_main(main)
