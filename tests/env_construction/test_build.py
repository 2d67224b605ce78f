"""Builds: splits share nothing for any seeds, bytes depend only on the seed, a killed build resumes."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from env_construction.build import main
from env_construction.building.author import STRATEGIES, Rejected
from env_construction.building.data_card import write_data_card, write_parquet
from env_construction.building.environment_builder import BuildConfiguration, build_chunk, build_unverified, new_draft
from env_construction.environment.jsonl import BadInput
from env_construction.environment.matching import answer_in_text
from env_construction.environment.schema import SCENARIOS, Environment, read_environments
from env_construction.facts.fact_author import FactAuthor
from env_construction.facts.levels import LEVELS
from env_construction.rules.duplicates import question_key
from env_construction.sandbox.tool_sandbox import ToolSandbox

ROOT = Path(__file__).resolve().parents[2]


def _arguments(folder: Path, *more: str) -> list[str]:
    return ["build", "--n-train", "16", "--n-dev", "4", "--n-test", "8", "--seed", "4", "--out", str(folder), *more]


def _build(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> None:
    monkeypatch.setattr(sys, "argv", _arguments(folder, *more))
    assert main() == 0


def _bytes(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.jsonl").read_bytes() for name in ("train", "dev", "test")}


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One complete build, with figures. Read-only: tests that write to it use a copy."""
    folder = tmp_path_factory.mktemp("build") / "data"
    with pytest.MonkeyPatch.context() as patch:
        _build(patch, folder)
    return folder


def _calls(environments: list[Environment]) -> set[str]:
    """Gold calls, by relation and entity, because tool names differ only in wording."""
    return {
        json.dumps([environment.provenance["functions"][position], call.arguments], sort_keys=True)
        for environment in environments
        for position, call in enumerate(environment.gold_plan)
    }


def test_splits_share_no_question_call_or_chain_whatever_the_seeds(built, level: str) -> None:
    for first, second in (("train", "dev"), ("train", "test"), ("dev", "test")):
        for seed, other in ((1, 1), (1, 2), (2, 1)):
            a, b = built(level, first, seed), built(level, second, other)
            assert not _calls(a) & _calls(b)
            assert not {question_key(item) for item in a} & {question_key(item) for item in b}
            starts_a = {json.dumps(item.gold_plan[0].arguments) for item in a}
            assert not starts_a & {json.dumps(item.gold_plan[0].arguments) for item in b}


def test_environments_are_complete_and_of_their_level(built, level: str) -> None:
    environments = built(level)
    assert [environment.scenario for environment in environments] == list(SCENARIOS) * 6
    for environment in environments:
        scenario = environment.scenario
        assert len(environment.sub_questions) in LEVELS[level].hops[scenario]
        assert len(environment.tools) <= max(LEVELS[level].tools[scenario])
        assert len(environment.tools) > len({call.name for call in environment.gold_plan}) or scenario != "single_hop"
        assert environment.solve_rate == 0.0 and environment.unsolved_count == len(environment.gold_plan)
        assert environment.messages[0]["content"].split("\n")[1].startswith("Question: ")
        if environment.provenance["answer_rule"] in ("list", "last"):
            final = ", ".join(item.answer for item in environment.sub_questions)
            assert answer_in_text(environment.answer or "", final, "published") or len(environment.gold_plan) > 2


def test_test_split_has_real_and_permuted_facts_train_only_permuted(built, level: str) -> None:
    assert {environment.provenance["counterfactual"] for environment in built(level, "train")} == {True}
    assert {environment.provenance["counterfactual"] for environment in built(level, "test")} == {True, False}


def test_compact_environments_stay_small(built) -> None:
    for environment in built("compact"):
        assert 2 <= len(environment.tools) <= 4
        assert len(json.dumps(environment.openai_tools())) < 1600
        for tool in environment.tools:
            assert 1 <= len(tool.parameters["properties"]) <= 3
        assert environment.messages[0]["content"].isascii()


def test_workers_and_resuming_do_not_change_a_byte(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(data_set, tmp_path / "one")
    _build(monkeypatch, tmp_path / "two", "--workers", "2")
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    assert (tmp_path / "one/statistics.json").read_bytes() == (tmp_path / "two/statistics.json").read_bytes()
    before = (tmp_path / "one/train.jsonl").stat().st_mtime_ns
    _build(monkeypatch, tmp_path / "one")
    assert (tmp_path / "one/train.jsonl").stat().st_mtime_ns == before
    monkeypatch.setattr(sys, "argv", [*_arguments(tmp_path / "grown"), "--n-train", "6"])
    assert main() == 0
    _build(monkeypatch, tmp_path / "grown")
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "grown")


@pytest.mark.integration
def test_a_killed_build_resumes_with_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL after some bytes were written. A torn line is added to the data, as a crash may leave it."""

    def command(folder: Path) -> list[str]:
        sizes = ["--n-train", "384", "--n-dev", "0", "--n-test", "0"]
        more = ["--seed", "9", "--workers", "2", "--no-parquet", "--out", str(folder)]
        return [sys.executable, "-m", "env_construction.build", *sizes, *more]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        command(killed), cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    state = killed / ".progress/train.json"
    deadline = time.monotonic() + 120
    while not state.exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert run.poll() is None, "the build ended before it could be killed"
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = json.loads(state.read_text())["done"]
    assert 0 < done < 384
    with (killed / "train.jsonl").open("ab") as handle:
        handle.write(b'{"messages": [{"role": "us')
    subprocess.run(command(killed), cwd=ROOT, env=environment, check=True, capture_output=True)
    monkeypatch.setattr(sys, "argv", [*command(whole)[2:], "--workers", "1"])
    assert main() == 0
    assert (killed / "train.jsonl").read_bytes() == (whole / "train.jsonl").read_bytes()
    assert (killed / "statistics.json").read_bytes() == (whole / "statistics.json").read_bytes()
    assert len(list(read_environments(killed / "train.jsonl"))) == 384


def test_duplicates_are_replaced_by_other_questions(built, construction_sandbox: ToolSandbox) -> None:
    configuration = BuildConfiguration("facts", "compact", 1)
    former = built("compact")[5]
    attempt = former.provenance["attempt"] + 1
    [again] = build_chunk(FactAuthor(), configuration, "train", [5], construction_sandbox, {5: attempt})
    assert again.environment.id == former.id
    assert question_key(again.environment) != question_key(former)


def test_another_configuration_in_the_same_folder_is_refused(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(data_set, tmp_path, dirs_exist_ok=True)
    before = _bytes(tmp_path)
    monkeypatch.setattr(sys, "argv", [*_arguments(tmp_path), "--level", "medium"])
    with pytest.raises(BadInput, match="level: 'compact' in the folder, 'medium' requested"):
        main()
    monkeypatch.setattr(sys, "argv", [*_arguments(tmp_path), "--n-train", "8"])
    with pytest.raises(BadInput, match="has 16 environments, but 8 were requested"):
        main()
    assert _bytes(tmp_path) == before
    (tmp_path / "train.jsonl").write_text("")
    monkeypatch.setattr(sys, "argv", _arguments(tmp_path))
    with pytest.raises(BadInput, match="0 bytes, but"):
        main()


def test_parquet_and_card_open_with_datasets_and_figures_are_drawn(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = datasets.load_dataset(str(data_set), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 16, "dev": 4, "test": 8}
    first = next(iter(read_environments(data_set / "train.jsonl")))
    row = loaded["train"][0]
    assert json.loads(row["gold_plan"]) == [call.model_dump() for call in first.gold_plan]
    row |= {name: json.loads(row[name]) for name in ("gold_plan", "provenance")}
    assert Environment.from_record(row) == first
    assert all((data_set / f"figures/statistics.{kind}").stat().st_size > 0 for kind in ("png", "svg"))


def test_a_card_names_only_existing_splits(tmp_path: Path) -> None:
    counted = {"environments": 1, "distinct (estimated)": {}, "rows": {"x": 1.0}}
    write_data_card(tmp_path, {"seed": 1}, {"train": counted, "dev": {**counted, "environments": 0}}, parquet=False)
    card = (tmp_path / "README.md").read_text()
    assert "path: train.jsonl" in card and "dev.jsonl" not in card
    (tmp_path / "train.jsonl").write_text('{"broken": \n')
    with pytest.raises(BadInput, match=r"train\.jsonl:1"):
        write_parquet(tmp_path, ["train"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_scaling_strategy_can_be_turned_off(strategy: str) -> None:
    left = tuple(name for name in STRATEGIES if name != strategy)
    changed = dict.fromkeys(STRATEGIES, 0)
    for index in range(24):
        draft = new_draft(BuildConfiguration("facts", "paper", 1, strategies=left), "train", index, 0)
        try:
            environment = build_unverified(FactAuthor(), draft)
        except Rejected:
            continue
        scaling = environment.provenance["scaling"]
        assert strategy not in scaling
        for name, number in scaling.items():
            changed[name] += number
        extra = [tool for tool in environment.tools if len(tool.parameters["properties"]) > 4]
        assert not extra or strategy != "parameter_expansion"
        if strategy == "toolset_extension":
            assert {tool.name for tool in environment.tools} == {call.name for call in environment.gold_plan}
    assert all(changed[name] for name in left)


def test_a_build_whose_hold_out_leaves_nothing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("env_construction.building.environment_builder.ATTEMPTS", 2)
    with pytest.raises(BadInput, match="--hold-out function:calculate"):
        _build(monkeypatch, tmp_path, "--hold-out", "function:calculate")


def test_impossible_demands_end_with_their_reasons(construction_sandbox: ToolSandbox) -> None:
    class Mute(FactAuthor):
        def decompose(self, draft, problem):
            raise Rejected("mute", "says nothing")

    with pytest.raises(Rejected, match="single_hop/mute"):
        build_chunk(Mute(), BuildConfiguration("facts", "compact", 1), "train", [0], construction_sandbox)


def test_a_rejection_keeps_its_rule_on_the_way_between_processes() -> None:
    found = pickle.loads(pickle.dumps(Rejected("a_rule", "what is wrong")))
    assert (found.rule, found.message, str(found)) == ("a_rule", "what is wrong", "a_rule: what is wrong")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--questions", "mine.txt"], "--questions: only the LLM author uses this; add --author llm"),
        (["--model", "M"], "--model: only the LLM author"),
        (["--author", "worlds", "--counterfactual", "on"], "worlds of --author worlds are invented"),
        (["--author", "llm", "--workers", "4"], "use --concurrency"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["build", "--n-train", "4", "--n-dev", "0", "--n-test", "0", "--out", str(tmp_path / "out"), *options]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(BadInput, match=said):
        main()
    assert not (tmp_path / "out").exists()
