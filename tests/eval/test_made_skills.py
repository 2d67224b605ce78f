"""The made skills in eval.general: asked as they are taught, graded as the benchmarks they stand for."""

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from env_construction.environment.jsonl import BadInput, read_jsonl
from eval import general, made_skills
from eval.suites.results import read_rows
from eval.suites.suite import DataMissing
from train.policies.interface import Generation, PolicyRequest
from train.teaching.made_skills import SKILLS, made_items

# MATH's grader needs math-verify (in requirements.txt); without it, only the other five are tested
GRADED = [skill for skill in SKILLS if skill != "made_expressions" or find_spec("math_verify")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made")
    write(out, "--items", "8")
    return out


def write(out: Path, *more: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["made_skills", "--out", str(out), *more])
        assert made_skills.main() == 0


class Taught:
    """Says the taught answer of every item (with thoughts if `thinking`), or the answer of the next item."""

    name = "taught"

    def __init__(self, split: str, thinking: bool = False, wrong: bool = False) -> None:
        self.thinking = thinking
        self.texts: dict[str, str] = {}
        self.asked: dict[str, str] = {}
        for skill in SKILLS:
            items = made_items(skill, split, 8, 0)
            for item in items:
                other = next(one for one in items if one.answer.splitlines()[-2:] != item.answer.splitlines()[-2:])
                said = other.answer if wrong else item.answer
                self.texts[item.id] = f"<think>\n{item.thoughts}\n</think>\n\n{said}" if thinking else said
                self.asked[item.id] = item.prompt

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        for request in requests:
            assert [message["content"] for message in request.environment.messages] == [self.asked[request.case_id]]
        return [Generation(self.texts[request.case_id], 4, 9, truncated=False) for request in requests]


def measure(data: Path, out: Path, policy: Any, *flags: str) -> dict[str, Any]:
    line = ["--policy", "oracle", "--data", str(data), "--out", str(out), "--tasks", *GRADED, *flags]
    return general.run(general.parser().parse_args(line), policy)


@pytest.mark.parametrize(("split", "thinking"), [("test", False), ("test", True), ("dev", False)])
def test_taught_answers_get_full_strict_scores(data: Path, tmp_path: Path, split: str, thinking: bool) -> None:
    flags = ["--split", split, *(["--thinking"] if thinking else [])]
    summary = measure(data, tmp_path, Taught(split, thinking), *flags)
    for skill in GRADED:
        table = summary["by_task"][skill]
        assert (table["correct"]["value"], table["strict"]["value"], table["correct"]["n"]) == (1.0, 1.0, 8), skill


def test_another_items_answer_is_wrong(data: Path, tmp_path: Path) -> None:
    summary = measure(data, tmp_path, Taught("test", wrong=True))
    assert all(summary["by_task"][skill]["correct"]["value"] < 0.5 for skill in GRADED)
    assert len(read_rows(tmp_path)) == 8 * len(GRADED)


def test_the_oracle_plays_all_six_skills_of_made(data: Path, tmp_path: Path) -> None:
    assert measure(data, tmp_path / "out", None)["metrics"]["correct"]["value"] == 1.0
    with pytest.raises(DataMissing, match=r"made_lookup: test\.jsonl .*written by `python -m eval\.made_skills`"):
        line = ["--policy", "oracle", "--data", str(tmp_path), "--out", str(tmp_path / "none"), "--tasks", "made"]
        general.run(general.parser().parse_args(line), None)
    with pytest.raises(DataMissing, match=r"eval\.made_skills"):
        general.run(general.parser().parse_args([*line[:3], "hub", *line[4:]]), None)


def test_lm_eval_reads_the_task_definitions_by_itself(data: Path) -> None:
    from lm_eval.tasks import TaskManager

    for skill in SKILLS:
        assert yaml.safe_load((data / "lm_eval" / f"{skill}.yaml").read_text(encoding="utf-8"))["task"] == skill
    manager = TaskManager(include_path=str(data / "lm_eval"), include_defaults=False)
    [task] = manager.load(["made_word_problems"])["tasks"].values()
    task.build_all_requests(limit=2, rank=0, world_size=1)
    first = made_items("made_word_problems", "test", 8, 0)[0]
    assert task.instances[0].args[0] == first.prompt
    assert task.doc_to_target(task.instances[0].doc) == first.answer


def test_a_folder_of_another_seed_is_refused_and_too_many_items_are_bad_input(data: Path, tmp_path: Path) -> None:
    before = [record for _, record in read_jsonl(data / "made_lookup" / "test.jsonl")]
    with pytest.raises(BadInput, match="another configuration"):
        write(data, "--items", "8", "--seed", "1")
    assert [record for _, record in read_jsonl(data / "made_lookup" / "test.jsonl")] == before
    with pytest.raises(BadInput, match="--items 2000: made_expressions"):
        write(tmp_path / "many", "--items", "2000")
    assert json.dumps(before[0]["made_prompt"])
