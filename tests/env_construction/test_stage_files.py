"""The stage scripts: five files in a row give the same environments as a build, resume, and pass rejections on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from env_construction import complexity_scaling, document_generation, function_integration, localized_deployment
from env_construction import scenario_decomposition as decomposition
from env_construction.building.author import Draft, Rejected, Toolset
from env_construction.building.author_options import make_author
from env_construction.building.environment_builder import BuildConfiguration, build_unverified, new_draft
from env_construction.building.stage_runner import read_drafts
from env_construction.environment.jsonl import BadInput, read_jsonl
from env_construction.environment.schema import SCENARIOS, read_environments
from env_construction.facts.fact_author import FactAuthor
from env_construction.function_integration import integrate_functions

STAGES = (document_generation, function_integration, complexity_scaling, localized_deployment)


def _run(monkeypatch: pytest.MonkeyPatch, module, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    assert module.main() == 0


def _run_all(monkeypatch: pytest.MonkeyPatch, folder: Path, level: str = "medium") -> None:
    _run(monkeypatch, decomposition, "--level", level, "--n", 12, "--seed", 7, "--out", folder / "1.jsonl")
    for number, module in enumerate(STAGES, start=2):
        more = ["--environments", folder / "environments.jsonl"] if module is localized_deployment else []
        _run(monkeypatch, module, "--in", folder / f"{number - 1}.jsonl", "--out", folder / f"{number}.jsonl", *more)


def test_five_files_in_a_row_give_the_same_as_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run_all(monkeypatch, tmp_path)
    written = {environment.id: environment for environment in read_environments(tmp_path / "environments.jsonl")}
    assert len(written) >= 10
    for index in range(12):
        draft = new_draft(BuildConfiguration("facts", "medium", 7), "train", index, 0)
        if draft.id in written:
            assert build_unverified(FactAuthor(), draft) == written[draft.id]


def test_every_domain_gets_every_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a build. The author is asked for nothing here: only its drafts count."""
    drafts: list[Draft] = []
    monkeypatch.setattr(decomposition, "run_stage", lambda _, __, named, *___: drafts.extend(d for _, d in named) or 0)
    monkeypatch.setattr(
        decomposition, "author_maker", lambda _: lambda name: SimpleNamespace(name=name) if name == "llm" else None
    )
    asked = ["--author", "llm", "--base-url", "http://localhost:1/v1", "--model", "M", "--domains", "law,music"]
    _run(monkeypatch, decomposition, *asked, "--n", 16, "--out", tmp_path / "1.jsonl")
    assert len(drafts) == 16
    for domain in ("law", "music"):
        found = [draft.scenario for draft in drafts if draft.topic and draft.topic.domain == domain]
        assert sorted(found) == sorted(2 * SCENARIOS)


def test_a_stage_does_not_redo_existing_drafts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run_all(monkeypatch, tmp_path, "compact")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (tmp_path / "3.jsonl").open("ab") as handle:
        handle.write(b'{"id": "torn')
    _run_all(monkeypatch, tmp_path, "compact")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_rejected_draft_is_recorded_and_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(monkeypatch, decomposition, "--n", 8, "--out", tmp_path / "1.jsonl")
    records = [record for _, record in read_jsonl(tmp_path / "1.jsonl")]
    records[2]["decomposition"]["steps"][0]["answer"] = "another answer"
    records[3]["rejected"] = {"stage": "scenario_decomposition", "rule": "no_graph", "message": "none found"}
    (tmp_path / "1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    _run(monkeypatch, document_generation, "--in", tmp_path / "1.jsonl", "--out", tmp_path / "2.jsonl")
    after = [record for _, record in read_jsonl(tmp_path / "2.jsonl")]
    assert [record["id"] for record in after] == [record["id"] for record in records]
    assert after[3]["rejected"]["rule"] == "no_graph" and not after[3]["documents"]
    assert after[0]["documents"] and "rejected" not in after[0]


def test_broken_drafts_are_named_by_file_line_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(monkeypatch, decomposition, "--n", 2, "--out", tmp_path / "1.jsonl")
    [first, second] = [record for _, record in read_jsonl(tmp_path / "1.jsonl")]
    second["scenario"] = "triple_hop"
    (tmp_path / "1.jsonl").write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")
    with pytest.raises(BadInput, match=r"1\.jsonl:2: key 'scenario'"):
        list(read_drafts(tmp_path / "1.jsonl"))
    with pytest.raises(BadInput, match="author 'nobody' is unknown; valid: facts"):
        make_author("nobody")


def _draft() -> Draft:
    draft = new_draft(BuildConfiguration("facts", "compact", 1), "train", 1, 0)
    author = FactAuthor()
    return document_generation.generate_documents(author, decomposition.decompose(author, draft))


class _Stubborn(FactAuthor):
    """Proposes one bad toolset after another, and remembers the messages that it got."""

    tries = 3

    def __init__(self, spoil) -> None:
        self.spoil = spoil
        self.told: list[str | None] = []

    def integrate(self, draft: Draft, problem: str | None) -> Toolset:
        self.told.append(problem)
        toolset = super().integrate(draft, problem)
        if len(self.told) < self.tries or self.spoil is not _once:
            self.spoil(toolset)
        return toolset


def _once(toolset: Toolset) -> None:
    toolset.tools[0].name = "not a name"


def _twice(toolset: Toolset) -> None:
    toolset.tools.append(toolset.tools[0])


def _idle(toolset: Toolset) -> None:
    toolset.tools.append(toolset.tools[0].model_copy(update={"name": "idle"}))


def _lost(toolset: Toolset) -> None:
    toolset.calls.pop()


def _misfit(toolset: Toolset) -> None:
    toolset.calls[0].arguments = {"nonsense": 1}


def _stranger(toolset: Toolset) -> None:
    toolset.calls[0].name = "stranger"


def test_an_author_is_shown_what_was_wrong_and_may_repair_it() -> None:
    author, draft = _Stubborn(_once), _draft()
    integrate_functions(author, draft)
    assert author.told[0] is None
    assert "'not a name' is no function name" in (author.told[1] or "")
    assert draft.provenance["repairs"] == {"function_integration": 2}


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (_twice, "tool_name_twice"),
        (_idle, "merge_"),
        (_lost, "call_missing"),
        (_misfit, "gold_call_invalid"),
        (_stranger, "call_to_unknown_tool"),
    ],
)
def test_what_cannot_be_repaired_is_rejected_under_the_rules_name(spoil, rule: str) -> None:
    author = _Stubborn(spoil)
    with pytest.raises(Rejected) as caught:
        integrate_functions(author, _draft())
    assert caught.value.rule.startswith(rule)
    assert len(author.told) == author.tries


def test_overlapping_documents_are_merged_and_calls_follow() -> None:
    author = FactAuthor()
    merged = 0
    for index in range(1, 80, 4):
        draft = new_draft(BuildConfiguration("facts", "compact", 1), "train", index, 0)
        try:
            decomposition.decompose(author, draft)
        except Rejected:
            continue
        document_generation.generate_documents(author, draft)
        integrate_functions(author, draft)
        merge = draft.provenance["merge"]
        merged += merge["documents"] - merge["tools"]
        assert merge["tools"] == len({call.name for call in draft.calls}) <= merge["documents"] == len(draft.calls)
    assert merged > 3
