"""The tiny policy: equal tokens for a name everywhere, a template that only appends, lessons only from train data."""

import json
import random
from dataclasses import replace

import pytest
import torch

from env_construction.environment.jsonl import BadInput, file_sha256, write_jsonl
from env_construction.environment.schema import Environment, GoldCall, SubQuestion, ToolDocument
from reward.tool_calls import parse_turn
from train import warm_start
from train.experiments import MODELS
from train.policies.chat_templates import EMPTY_THINKING, TINY_TEMPLATE
from train.policies.interface import OraclePolicy, PolicyRequest
from train.policies.prompts import render_prompt
from train.policies.rollout import play
from train.teaching import practice
from train.teaching.demonstrations import MIX, ORACLE, Demonstrator
from train.teaching.learner import Learner, orthogonalize
from train.teaching.lessons import skill_lessons, tool_lessons
from train.teaching.made_skills import SKILLS
from train.teaching.sequences import (
    Sequence,
    conversation_text,
    copy_batch,
    entity_names,
    to_sequence,
    word_pieces,
)
from train.teaching.tiny_policy import new_model, train_tokenizer
from train.teaching.warm_start_card import card

NAMES = ["Reykjavik", "Alor Setar", "Bang Khae Nuea"]


def environment(name: str) -> Environment:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [ToolDocument(name=tool, description="About a city.", parameters=parameters) for tool in ("river", "mayor")]
    return Environment(
        messages=[{"role": "user", "content": f"Question: Which river flows through {name}?"}],
        tools=tools,
        codes={tool.name: f"def {tool.name}(city):\n    return {{'found': 'Olfusa'}}\n" for tool in tools},
        unsolved_set={"river": ["Olfusa"]},
        answer="Olfusa",
        id=f"city-{name}",
        sub_questions=[SubQuestion(id="q1", question="?", answer="Olfusa", tool="river")],
        gold_plan=[GoldCall(sub_question="q1", name="river", arguments={"city": name})],
    )


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return train_tokenizer([json.dumps(environment(name).to_record()) for name in NAMES] * 3, vocabulary=420)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_the_same_tokens_after_a_space_and_after_a_quote(tokenizer, name: str) -> None:  # type: ignore[no-untyped-def]
    alone = tokenizer(name).input_ids
    for text in (f"flows through {name}?", f'{{"city": "{name}"}}'):
        ids = tokenizer(text).input_ids
        assert any(ids[i : i + len(alone)] == alone for i in range(len(ids)))


def test_text_survives_the_tokenizer_and_tags_are_single_tokens(tokenizer) -> None:  # type: ignore[no-untyped-def]
    text = '<tool_call>\n{"name": "río", "arguments": {"x": 1.5}}\n</tool_call>'
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer("<tool_call>").input_ids) == len(tokenizer("<|im_end|>").input_ids) == 1


def test_a_longer_conversation_only_appends_to_the_shorter_ones_text(tokenizer) -> None:  # type: ignore[no-untyped-def]
    state = environment("Reykjavik")
    call = {"type": "function", "function": {"name": "river", "arguments": {"city": "Reykjavik"}}}
    longer = [
        *state.messages,
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "name": "river", "content": '{"found": "Olfusa"}'},
        {"role": "tool", "name": "river", "content": '{"found": "Olfusa"}'},
        {"role": "assistant", "content": "The answer is Olfusa."},
    ]
    texts = [render_prompt(tokenizer, longer[:n], state.openai_tools(), thinking=False) for n in (1, 4)]
    assert texts[1].startswith(texts[0])
    turn = texts[1][len(texts[0]) :].split("<|im_end|>")[0]
    assert [c.arguments for c in parse_turn(turn).calls] == [{"city": "Reykjavik"}] * 2


@pytest.mark.parametrize("thinking", [False, True])
def test_assistant_tokens_weigh_one_and_renaming_keeps_repeated_names_equal(tokenizer, thinking: bool) -> None:  # type: ignore[no-untyped-def]
    """The empty block that the template writes where thinking is off is no token of the assistant's."""
    state = environment("Alor Setar")
    call = {"type": "function", "function": {"name": "river", "arguments": {"city": "Alor Setar"}}}
    thought = {"reasoning_content": "Next: river of Alor Setar."} if thinking else {}
    state.messages.append({"role": "assistant", "content": "", "tool_calls": [call], **thought})
    sequence = to_sequence(state.messages, state.openai_tools(), tokenizer, 0.05, thinking, entity_names(state))
    text = conversation_text(state.messages, state.openai_tools(), tokenizer, thinking)
    assert tokenizer.decode(sequence.tokens) == text and (EMPTY_THINKING in text) != thinking
    spoken = tokenizer.decode([t for t, w in zip(sequence.tokens, sequence.weights, strict=True) if w == 1.0])
    opened = "<think>\nNext: river of Alor Setar.\n</think>\n\n" if thinking else ""
    assert spoken.startswith(f"{opened}<tool_call>") and spoken.endswith("<|im_end|>")
    renamed = sequence.renamed(word_pieces(tokenizer), random.Random(0))
    text = tokenizer.decode(renamed.tokens)
    assert "Alor Setar" not in text and len(renamed.tokens) == len(renamed.weights)
    name = text.split("flows through ")[1].split("?")[0]
    assert f'"city": "{name}"' in text
    assert not thinking or f"Next: river of {name}." in text


def test_names_are_the_gold_arguments_and_answers() -> None:
    assert entity_names(environment("Reykjavik")) == ["Reykjavik", "Olfusa"]


def test_copy_batches_repeat_and_only_the_repetition_counts() -> None:
    for item in copy_batch([7, 8, 9], random.Random(1), rows=3, length=5):
        assert item.tokens[:5] == item.tokens[5:] and item.weights == [0.0] * 5 + [1.0] * 5


def test_the_card_says_how_to_remake_the_policy(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    report = {
        "command": "--environments 'a b.jsonl'", "parameters": 1083488, "layers": 8, "width": 96, "vocabulary": 2048,
        "dtype": "float32", "device": "cpu", "seed": 3, "steps": 10, "tokens": 20480, "seconds": 90.0,
        "stopped": "time is over", "demonstrations": {"mix": {"right": 0.4, "early": 0.6}, "recheck": 0.2},
        "lessons": {"made skills": {"conversations": 50, "tokens": 3000}},
    }  # fmt: skip
    metric = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 200}
    measured = {
        "tools plain": {"metrics": {"solve_f1": metric}},
        "skills plain": {"by_task": {"made_lookup": {"correct": metric}}},
        "skills thinking": {"by_task": {"made_lookup": {"correct": metric}}},
    }
    text = card(report, tmp_path, measured)
    assert "python -m train.warm_start --environments 'a b.jsonl'" in text and "| early | 60% |" in text
    cell = "0.250 [0.200, 0.300]"
    assert f"| Solve-F1 (n = 200) | {cell} |  |" in text and f"| made_lookup (n = 200) | {cell} | {cell} |" in text
    assert file_sha256(tmp_path / "model.safetensors") in text
    longer = card(report | {"before": report | {"command": "--seed 7", "seconds": 60.0}}, tmp_path)
    assert longer.index("train.warm_start --seed 7") < longer.index("train.warm_start --environments 'a b.jsonl'")
    assert "2 core minutes of training in total" in longer and "Not measured yet" in longer


def test_the_demonstrator_depends_on_its_seed_alone_and_shows_every_habit() -> None:
    assert sum(MIX.values()) == pytest.approx(1.0)
    requests = [PolicyRequest(environment("Reykjavik"), f"case-{i}", 0, 0, 0) for i in range(300)]
    texts = [g.text for g in Demonstrator(0).generate(requests)]
    assert texts == [g.text for g in Demonstrator(0).generate(requests)]
    calls = [len(parse_turn(text).calls) for text in texts]
    names = [{call.name for call in parse_turn(text).calls} for text in texts]
    assert {0, 1, 2} == set(calls)  # the environment has two tools: no room for a second needless call
    assert {"mayor"} in names and {"river", "mayor"} in names


def test_the_model_is_a_small_qwen3_with_tied_embeddings(tokenizer) -> None:  # type: ignore[no-untyped-def]
    model = new_model(tokenizer, seed=0, layers=2, width=64)
    assert model.config.model_type == "qwen3" and model.config.tie_word_embeddings
    again = new_model(tokenizer, seed=0, layers=2, width=64)
    assert all((a == b).all() for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert "add_generation_prompt" in TINY_TEMPLATE


def test_without_bad_habits_the_demonstrator_plays_as_the_oracle_does(environments, sandbox) -> None:  # type: ignore[no-untyped-def]
    good = play(Demonstrator(0, ORACLE), environments, sandbox=sandbox)
    best = play(OraclePolicy(), environments, sandbox=sandbox)
    for one, other in zip(good, best, strict=True):
        assert one.score == other.score and one.score.solve_f1 == 1.0
        assert [turn.parsed.calls for turn in one.turns] == [turn.parsed.calls for turn in other.turns]


def test_a_plan_says_what_the_turn_does_and_thinking_changes_nothing_else(environments, sandbox) -> None:  # type: ignore[no-untyped-def]
    plain = play(Demonstrator(3), environments * 6, sandbox=sandbox)
    thought = play(Demonstrator(3, thinking=True), environments * 6, sandbox=sandbox)
    for one, other in zip(plain, thought, strict=True):
        assert [turn.parsed.calls for turn in one.turns] == [turn.parsed.calls for turn in other.turns]
        for before, turn in zip(other.prefixes, other.turns, strict=True):
            plan = turn.parsed.thinking
            still_open = [tool for tool, answers in before.unsolved_set.items() for _ in answers]
            assert plan.startswith("Open: ") and ("Open: none." in plan) == (not still_open)
            assert all(tool in plan for tool in still_open[:1])
            if turn.parsed.calls and "Next: " in plan:
                assert f"{turn.parsed.calls[0].name} of " in plan
            else:
                assert turn.parsed.calls or f": {turn.parsed.content.removeprefix('The answer is ')}" in plan


def test_lessons_are_in_both_modes_and_no_environment_is_seen_twice(environments, tokenizer) -> None:  # type: ignore[no-untyped-def]
    many = [item.model_copy(update={"id": f"{item.id}-{place}"}) for place in range(25) for item in environments]
    lessons = tool_lessons(many, ORACLE, 0.5, seed=0)
    assert len({lesson.environment.id for lesson in lessons}) == len(lessons) == 100  # type: ignore[union-attr]
    thought = [any("reasoning_content" in message for message in lesson.messages) for lesson in lessons]
    assert thought == [lesson.thinking for lesson in lessons] and sum(thought) == 50
    skills = skill_lessons(120, 0.5, seed=0)
    assert {lesson.kind for lesson in skills} == set(SKILLS) and len(skills) == 120
    assert all(lesson.thinking == ("reasoning_content" in lesson.messages[-1]) for lesson in skills)
    assert not any(lesson.thinking for lesson in skill_lessons(120, 0.0, seed=0))


def test_wall_time_ends_learning_where_the_work_is_not_done(tmp_path, environments, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    small = replace(
        MODELS["tiny"], layers=1, width=32, heads=2, kv_heads=1, head_width=16, mlp_width=32, vocabulary=420
    )
    monkeypatch.setitem(MODELS, "tiny", small)
    write_jsonl(tmp_path / "train.jsonl", [item.to_record() for item in environments])
    data, out = str(tmp_path / "train.jsonl"), tmp_path / "out"
    line = ["--environments", data, "--dev", data, "--out", str(out), "--device", "cpu", "--skill-items", "0"]
    monkeypatch.setattr(
        "sys.argv", ["warm_start", *line, "--minutes", "600", "--wall-minutes", "0.02", "--threads", "2"]
    )
    assert warm_start.main() == 0
    report = json.loads((out / "warm_start.json").read_text(encoding="utf-8"))
    assert report["steps"] > 0 and report["seconds"] < 60 and report["stopped"] == "time is over"


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (24, 24)])
def test_newton_schulz_makes_all_singular_values_alike_and_keeps_the_singular_vectors(shape: tuple[int, int]) -> None:
    left, values, right = torch.linalg.svd(
        torch.randn(*shape, generator=torch.Generator().manual_seed(0)), full_matrices=False
    )
    result = orthogonalize(left @ torch.diag(values) @ right, (3.4445, -4.775, 2.0315), 5, 1e-7)
    assert result.dtype == torch.float32
    rotated = left.T @ result @ right.T  # diagonal where the vectors are the same
    assert torch.allclose(rotated, torch.diag(rotated.diagonal()), atol=1e-4)
    assert rotated.diagonal().min() > 0.3 and rotated.diagonal().max() < 1.3 < values.max()


@pytest.mark.parametrize(("optimizer", "kinds"), [("muon", ["AdamW", "Muon"]), ("adamw", ["AdamW"])])
def test_the_learner_trains_every_parameter_with_one_optimizer(tokenizer, optimizer: str, kinds: list[str]) -> None:  # type: ignore[no-untyped-def]
    model = new_model(tokenizer, seed=0, layers=1, width=32)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    learner = Learner(model, tokenizer.pad_token_id, 1e-2, optimizer)
    assert [type(item).__name__ for item in learner.optimizers] == kinds
    held = [id(p) for item in learner.optimizers for group in item.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    batch = [Sequence(list(range(5, 45)), [1.0] * 40)]
    losses = [learner.step(batch, 1.0) for _ in range(8)]
    assert losses[-1] < losses[0] - 0.5
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_threads_compute_the_same_gradients_in_parts(tokenizer) -> None:  # type: ignore[no-untyped-def]
    """Batches of unequal lengths and weights: the mean is over the whole batch, not a mean of the parts' means."""
    rng = random.Random(3)
    batch = [
        Sequence([rng.randrange(5, 45) for _ in range(length)], [rng.choice((0.05, 1.0)) for _ in range(length)])
        for length in (40, 7, 23, 31, 12)
    ]
    losses, models = [], []
    for threads in (1, 2, 8):
        model = new_model(tokenizer, seed=0, layers=2, width=32)
        losses.append(Learner(model, tokenizer.pad_token_id, 1e-2, "adamw", threads=threads)._backward(batch))
        models.append(model)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    for model in models[1:]:
        for expected, found in zip(models[0].parameters(), model.parameters(), strict=True):
            assert expected.grad is not None and found.grad is not None
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-7)


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_demonstrated(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    line = [
        "warm_start",
        "--environments",
        "none.jsonl",
        "--dev",
        "none.jsonl",
        "--out",
        str(tmp_path),
        "--device",
        "cuda",
    ]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(BadInput, match="--device cuda"):
        warm_start.main()


def test_the_device_that_was_asked_for_is_the_one_that_learns_and_plays(tmp_path, environments, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """On a machine that shows a GPU, --device cpu learns on the CPU; the report says so."""
    nvidia_smi = tmp_path / "nvidia-smi"
    nvidia_smi.write_text("#!/bin/sh\necho '0, GPU-1, 81920'\n", encoding="utf-8")
    nvidia_smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    write_jsonl(tmp_path / "train.jsonl", [item.to_record() for item in environments])
    asked = []

    def figures(folder, dev, items, modes, seed, device):  # type: ignore[no-untyped-def]
        asked.append((device, modes, len(items)))
        return {"argument_rate": 1.0}

    monkeypatch.setattr(practice, "dev_figures", figures)
    small = replace(
        MODELS["tiny"], layers=1, width=32, heads=2, kv_heads=1, head_width=16, mlp_width=32, vocabulary=420
    )
    monkeypatch.setitem(MODELS, "tiny", small)
    out, data = tmp_path / "out", str(tmp_path / "train.jsonl")
    line = ["--environments", data, "--dev", data, "--out", str(out), "--device", "cpu", "--minutes", "0.05"]
    more = ["--evaluate-every", "0", "--copy-until", "99", "--skill-items", "12", "--dev-items", "2"]
    monkeypatch.setattr("sys.argv", ["warm_start", *line, *more])
    assert warm_start.main() == 0
    report = json.loads((out / "warm_start.json").read_text(encoding="utf-8"))
    assert report["device"] == "cpu" and report["steps"] > 0
    assert set(asked) == {("cpu", (False, True), 12)}
    assert report["lessons"]["made skills"]["conversations"] == 12 and report["layers"] == 1
    # the device is no part of what is asked for: a finished start is found again from another machine
    monkeypatch.setattr("sys.argv", ["warm_start", *line[:-4], "--minutes", "0.05", *more])
    assert warm_start.main() == 0
