"""One step over micro-batches of unequal size, as in OpenRLHF's dynamic batches, has the gradient of the full batch.

It holds for ZeRO stage 3, which all rows with a token budget use. Stage 2 keeps only the last micro-batch, so rows with
adapters have no budget (train/experiments.py).
"""

from collections.abc import Callable
from pathlib import Path

from train.experiments import matrix
from train.trainer.openrlhf_command import Launch, build_flags

SCRIPT = """
import sys
import deepspeed, torch
deepspeed.init_distributed("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
optimizer = {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}}
for offload in ("cpu", "none"):
    config = {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "optimizer": optimizer,
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": offload}},
        "zero_force_ds_cpu_optimizer": False,
    }
    torch.manual_seed(1)
    samples = [torch.randn(size, 8) for size in (3, 5, 2)]
    results = []
    for batches in (samples, [torch.cat(samples)]):
        torch.manual_seed(0)
        layers = torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
        engine, *_ = deepspeed.initialize(model=torch.nn.Sequential(*layers), config=config)
        for _ in range(2):
            for batch in batches:
                engine.backward(engine(batch).pow(2).sum() / 10)
            engine.step()
        with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
            results.append([parameter.detach().clone() for parameter in engine.module.parameters()])
    print("DIFFERENCE", offload, max((a - b).abs().max().item() for a, b in zip(*results)))
"""


def test_backward_passes_add_up_until_the_step_with_and_without_offload(
    openrlhf_script: Callable[..., list[str]], tmp_path: Path
) -> None:
    script = tmp_path / "budget.py"
    script.write_text(SCRIPT)
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    lines = openrlhf_script("DIFFERENCE ", script, tmp_path / "store", **place)
    found = {name: float(value) for name, value in map(str.split, lines)}
    assert set(found) == {"cpu", "none"}
    assert max(found.values()) < 1e-6


def test_a_token_budget_is_asked_for_with_stage_3_alone(tmp_path) -> None:
    for row in matrix():
        flags = build_flags(
            row, Launch(policy="policy", prompts="prompts.jsonl", out=tmp_path, samples=512, gpus=row.gpus)
        )
        if "--train.dynamic_batch_enable" in flags:
            assert flags[flags.index("--ds.zero_stage") + 1] == "3" and "--ds.packing_samples" in flags


def test_packed_sequences_of_a_hybrid_see_each_other_so_that_its_rows_have_no_budget() -> None:
    """Pinned transformers: linear attention ignores position ids. If this fails, hybrids may have a token budget."""
    import torch
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig, Qwen3Config, Qwen3ForCausalLM

    shape = {
        "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    linear = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    }
    torch.manual_seed(0)
    hybrid = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**shape, **linear)).eval()
    attention = Qwen3ForCausalLM(Qwen3Config(**shape)).eval()
    first, second = torch.randint(0, 100, (1, 20)), torch.randint(0, 100, (1, 12))
    places = torch.cat([torch.arange(20), torch.arange(12)])[None]
    leaked = []
    for model in (hybrid, attention):
        with torch.no_grad():
            alone = model(second, position_ids=torch.arange(12)[None], use_cache=False).logits
            packed = model(torch.cat([first, second], 1), position_ids=places, use_cache=False).logits[:, 20:]
        leaked.append((alone - packed).abs().max().item())
    assert leaked[0] > 1e-3 and leaked[1] < 1e-5
