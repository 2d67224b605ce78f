"""LoRA adapters: vLLM gets the merged weights under the base model's names, and a merged checkpoint is a whole one."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from env_construction.environment.jsonl import BadInput
from train import merge_adapter as merging
from train.merge_adapter import merge_adapter
from train.policies.prompts import load_tokenizer, template_sha256
from train.trainer.openrlhf_lora import (
    MergedModel,
    MergedWeight,
    ParkedBase,
    park_base,
    reference_forward,
    send_merged_weights,
)


@pytest.fixture(scope="module")
def base(tiny_checkpoint: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def adapted(tiny_checkpoint: Path) -> Any:
    """A model with adapters on all linear layers, as OpenRLHF makes them, and with random weights as if trained."""
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    model.enable_input_require_grads()
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=0, bias="none"
    )
    torch.manual_seed(3)
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


def merged_by_hand(base: Any, adapted: Any) -> dict[str, torch.Tensor]:
    """W + 2 B A with alpha / rank = 2, from the saved tensors alone."""
    state = {name.removeprefix("base_model.model."): value for name, value in adapted.state_dict().items()}
    expected = {}
    for name, weight in base.named_parameters():
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A.default.weight" in state:
            up, down = state[f"{layer}.lora_B.default.weight"], state[f"{layer}.lora_A.default.weight"]
            expected[name] = weight.detach() + 2 * up @ down
        else:
            expected[name] = weight.detach()
    return expected


def test_the_sent_weights_are_the_merged_ones_under_the_base_models_names(base: Any, adapted: Any) -> None:
    expected = merged_by_hand(base, adapted)
    sent = dict(MergedModel(adapted).named_parameters())
    assert sent.keys() == expected.keys()
    assert sum(isinstance(weight, MergedWeight) for weight in sent.values()) == 2 * 7
    changed = 0
    for name, weight in sent.items():
        assert (weight.shape, weight.dtype) == (expected[name].shape, expected[name].dtype)
        torch.testing.assert_close(weight.data, expected[name], msg=name)
        changed += not torch.equal(weight.data, dict(base.named_parameters())[name])
    assert changed == 2 * 7


def test_sending_changes_no_weight(adapted: Any) -> None:
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    for _, weight in MergedModel(adapted).named_parameters():
        assert weight.data.is_contiguous()
    assert all(torch.equal(before[name], value) for name, value in adapted.state_dict().items())


def test_openrlhfs_sync_sees_the_merged_model_and_the_trainer_its_own(base: Any, adapted: Any) -> None:
    class ActorPPOTrainer:
        def __init__(self, model: Any, zero_stage: int) -> None:
            self.actor = SimpleNamespace(model=SimpleNamespace(module=model))
            self.strategy = SimpleNamespace(args=SimpleNamespace(ds=SimpleNamespace(zero_stage=zero_stage)))

        def broadcast_to_vllm(self) -> list[str]:
            return [name for name, parameter in self.actor.model.module.named_parameters() if parameter.requires_grad]

    actors = SimpleNamespace(__ray_metadata__=SimpleNamespace(modified_class=SimpleNamespace()))
    send_merged_weights(SimpleNamespace(ActorPPOTrainer=ActorPPOTrainer, PolicyModelActor=actors))
    trainer = ActorPPOTrainer(adapted, 2)
    actor = trainer.actor
    assert set(trainer.broadcast_to_vllm()) <= {name for name, _ in base.named_parameters()}
    assert trainer.actor is actor
    assert ActorPPOTrainer(base, 3).broadcast_to_vllm() == [name for name, _ in base.named_parameters()]
    with pytest.raises(ValueError, match=r"zero_stage 2"):
        ActorPPOTrainer(adapted, 3).broadcast_to_vllm()


@pytest.fixture(scope="module")
def adapter(adapted: Any, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(folder)
    load_tokenizer(tiny_checkpoint).save_pretrained(folder)
    return folder


def test_the_merged_checkpoint_is_whole(
    base: Any, adapted: Any, adapter: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "checkpoint"
    line = ["merge_adapter", "--base", str(tiny_checkpoint), "--adapter", str(adapter), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", line)
    assert merging.main() == 0
    assert not (out / "adapter_config.json").exists() and (out / "config.json").exists()
    transformers = pytest.importorskip("transformers")
    merged = dict(transformers.AutoModelForCausalLM.from_pretrained(out).named_parameters())
    for name, weight in merged_by_hand(base, adapted).items():
        torch.testing.assert_close(merged[name].detach(), weight, msg=name)
    assert template_sha256(load_tokenizer(out)) == template_sha256(load_tokenizer(tiny_checkpoint))
    stops = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert stops == json.loads((tiny_checkpoint / "generation_config.json").read_text())["eos_token_id"]


def test_what_does_not_fit_is_refused(adapter: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"it has no adapter_config\.json"):
        merge_adapter(tiny_checkpoint, tiny_checkpoint, tmp_path / "out")
    from train.teaching.tiny_policy import new_model

    wider = new_model(load_tokenizer(tiny_checkpoint), seed=1, layers=2, width=64)  # type: ignore[arg-type]
    wider.save_pretrained(tmp_path / "wider")
    with pytest.raises(BadInput, match=r"the adapter \(rank 4\) does not fit"):
        merge_adapter(tmp_path / "wider", adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def policy_actor(adapted: Any) -> Any:
    """What `reference_forward` needs of OpenRLHF's policy actor."""
    model = SimpleNamespace(module=adapted)
    return SimpleNamespace(actor=SimpleNamespace(model=model), forward=lambda ids: adapted(ids).logits.detach())


def test_the_reference_is_the_base_with_the_adapters_off_and_the_policy_keeps_them(base: Any, adapted: Any) -> None:
    ids, actor = torch.arange(12).reshape(2, 6), policy_actor(adapted)
    torch.testing.assert_close(reference_forward(actor, ids), base(ids).logits.detach())
    assert (actor.forward(ids) - base(ids).logits).abs().max() > 1e-3


def test_openrlhf_starts_no_second_model_for_the_reference(found_by: Callable[..., dict]) -> None:
    assert found_by("shared_reference_process.py") == {
        "actors made": ["PolicyModelActor"],
        "loaded by the reference": [],
        "asked for the reference": ["reference_forward", 0, 2],
        "asked for the policy": ["forward", 0, 2],
        "travels": "PolicyAsReference",
    }


def test_a_parked_base_is_sent_and_computed_with_as_before(tiny_checkpoint: Path, base: Any) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    ids = torch.arange(12).reshape(2, 6)
    logits = model(ids).logits.detach()
    sent = {name: weight.data.clone() for name, weight in MergedModel(model).named_parameters()}
    parked = ParkedBase(model)
    for name, weight in MergedModel(model).named_parameters():
        assert torch.equal(weight.data, sent[name])
    with parked, parked:
        assert torch.equal(model(ids).logits.detach(), logits)
        model(ids).logits.sum().backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert trained and all("lora_" in name for name in trained)


def test_the_base_is_on_the_gpu_for_computing_alone_and_moves_once_a_phase() -> None:
    """A frozen and a trained parameter. A dtype replaces the GPU, because this machine has no second device."""
    frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    trained = torch.nn.Parameter(torch.ones(3))
    places: list[str] = []

    class PolicyModelActor:
        def init_model_from_pretrained(self) -> str:
            module = SimpleNamespace(parameters=lambda: [frozen, trained])
            self.actor = SimpleNamespace(model=SimpleNamespace(module=module))
            return "loaded"

        def execute_batch(self, method: str) -> None:
            places.append(f"{method} {frozen.dtype} {trained.dtype}")

        def fit(self) -> None:
            places.append(f"fit {frozen.dtype}")
            raise RuntimeError("out of memory")

    park_base(PolicyModelActor)
    actor = PolicyModelActor()
    assert actor.init_model_from_pretrained() == "loaded"
    frozen.home = torch.float64  # type: ignore[attr-defined]
    actor.execute_batch("forward")
    assert frozen.dtype == torch.float32 and torch.equal(frozen, torch.ones(3))
    with pytest.raises(RuntimeError, match="out of memory"):
        actor.fit()
    assert frozen.dtype == torch.float32
    assert places == ["forward torch.float64 torch.float32", "fit torch.float64"]
