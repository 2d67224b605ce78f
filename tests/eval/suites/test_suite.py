"""The loop shared by all suites: outcomes, faults, seeds, independent threads, resuming, one model."""

import argparse
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput, read_jsonl
from eval.suites import suite
from eval.suites.games import GameFault, SuiteGame, conversation, game_player, with_messages
from eval.suites.results import GroupedMean
from eval.suites.suite import one_policy, run_suite, suite_parser
from train.policies.games import turn_seed
from train.policies.interface import Exchange, Generation, OraclePolicy, PolicyRequest


class EchoPolicy:
    """Says the case, trial, turn and seed of each request; records the batches."""

    name = "echo"

    def __init__(self, special: dict[tuple[str, int], Generation] | None = None) -> None:
        self.special = special or {}
        self.batches: list[list[str]] = []

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        self.batches.append([request.case_id for request in requests])
        return [self.one(request) for request in requests]

    def one(self, request: PolicyRequest) -> Generation:
        text = f"{request.case_id} {request.trial} {request.turn} {request.seed}"
        return self.special.get(
            (request.case_id, request.turn), Generation(text, 3, len(request.environment.messages), False)
        )


class OneAtATime(EchoPolicy):
    """A streaming policy: replaces each turn as soon as it is generated, so games are never synchronized."""

    workers = 1

    def stream(self, exchange: Exchange) -> None:
        waiting = exchange([], 2)
        while waiting:
            ticket, request = waiting.pop(0)
            waiting += exchange([(ticket, self.one(request))], 2 - len(waiting))


class Countdown(SuiteGame):
    """A game with as many turns as its id says; `before` runs at the start of each `hear`."""

    def __init__(self, case: str, trial: int, before: Callable[[str, int], None] | None = None) -> None:
        super().__init__(case, trial, conversation(case, [{"role": "user", "content": case}]))
        self.heard = 0
        self.before = before

    def hear(self, generation: Generation) -> None:
        self.heard += 1
        if self.before:
            self.before(self.id, self.heard)
        self.state = with_messages(self.state, {"role": "assistant", "content": generation.text})
        self.done = self.heard >= int(self.id)

    def row(self, outcome: str) -> dict[str, Any]:
        return {"heard": self.heard, "long": self.heard > 1}


class Golden(Countdown):
    def gold_turn(self) -> str:
        return f"gold {self.heard}"


def play(policy: Any, cases: list[str], game: Callable[..., Any] = Countdown, **settings: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    arguments = argparse.Namespace(seed=7, in_flight=settings.pop("in_flight", 8))
    plays = [(case, trial) for case in cases for trial in range(settings.pop("trials", 1))]
    game_player(arguments, game, **{"max_turns": 5} | settings)(policy, plays, rows.append)
    return rows


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(
        ({k: v for k, v in row.items() if k != "seconds"} for row in rows), key=lambda r: (r["id"], r["trial"])
    )


def test_row_of_a_game() -> None:
    [row] = play(EchoPolicy(), ["2"])
    seeds = [turn_seed(7, "2", 0, turn) for turn in (0, 1)]
    assert row.pop("seconds") >= 0
    assert row == {
        "id": "2",
        "trial": 0,
        "seed": 7,
        "outcome": "ended",
        "failure": "",
        "turns": 2,
        "heard": 2,
        "long": True,
        "completion_tokens": 6,
        "transcript": [
            {"role": "user", "content": "2"},
            {"role": "assistant", "content": f"2 0 0 {seeds[0]}"},
            {"role": "assistant", "content": f"2 0 1 {seeds[1]}"},
        ],
        "turn_scores": [
            {"text": f"2 0 0 {seeds[0]}", "tokens": 3, "prompt_tokens": 1, "truncated": False},
            {"text": f"2 0 1 {seeds[1]}", "tokens": 3, "prompt_tokens": 2, "truncated": False},
        ],
    }


@pytest.mark.parametrize("policy", [EchoPolicy, OneAtATime])
@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("in_flight", [1, 2, 50])
def test_rows_do_not_depend_on_batches_threads_or_the_kind_of_policy(policy, threads, in_flight) -> None:
    cases = ["3", "1", "4", "2"]
    rows = play(policy(), cases, trials=2, threads=threads, in_flight=in_flight)
    assert without_time(rows) == without_time(play(EchoPolicy(), cases, trials=2))


def test_without_threads_the_batches_are_the_same_in_every_run_and_full() -> None:
    first, second = EchoPolicy(), EchoPolicy()
    for policy in (first, second):
        play(policy, ["3", "1", "2", "2", "1"], in_flight=3)
    assert first.batches == second.batches
    assert first.batches[0] == ["3", "1", "2"]
    assert [len(batch) for batch in first.batches] == [3, 3, 3]


def test_outcomes_set_by_the_engine() -> None:
    special = {
        ("3", 1): Generation("", 0, 9, False, too_long=True),
        ("4", 1): Generation("", 0, 0, False, fault="server gone"),
    }
    rows = {row["id"]: row for row in play(EchoPolicy(special), ["3", "4", "9"])}
    assert (rows["3"]["outcome"], rows["3"]["failure"], rows["3"]["turns"]) == ("too_long", "too_long", 1)
    assert (rows["9"]["outcome"], rows["9"]["failure"], rows["9"]["turns"]) == ("max_turns", "max_turns", 5)
    assert rows["4"] == {"id": "4", "trial": 0, "seed": 7, "outcome": "fault", "fault": "server gone"}


def test_a_broken_game_is_a_fault_of_its_case_and_bad_input_ends_the_run() -> None:
    def before(case: str, turn: int) -> None:
        if case == "2" and turn == 2:
            raise GameFault("user's server gone")
        if case == "3":
            raise KeyError("surprise")

    rows = {row["id"]: row for row in play(EchoPolicy(), ["1", "2", "3"], lambda c, t: Countdown(c, t, before))}
    assert rows["1"]["outcome"] == "ended"
    assert rows["2"]["fault"] == "user's server gone"
    assert rows["3"]["fault"].startswith("unexpected KeyError at test_suite.py:")

    def refuse(case: str, turn: int) -> None:
        raise BadInput("mend this")

    for threads in (0, 2):
        with pytest.raises(BadInput, match="mend this"):
            play(EchoPolicy(), ["1"], lambda c, t: Countdown(c, t, refuse), threads=threads)


def test_a_game_that_cannot_be_set_up_is_a_fault() -> None:
    def make(case: str, trial: int) -> Countdown:
        if case == "2":
            raise GameFault("no database")
        return Countdown(case, trial)

    rows = play(EchoPolicy(), ["2", "1"], make)
    assert [(row["id"], row["outcome"]) for row in rows] == [("2", "fault"), ("1", "ended")]


def test_a_streaming_policy_does_not_wait_for_a_slow_game() -> None:
    """Game 2 hears its first turn only after game 3 ends; if one waited for the other, this test would hang."""
    other_ended = threading.Event()

    def before(case: str, turn: int) -> None:
        if case == "2":
            assert other_ended.wait(30)
        elif turn == 3:
            other_ended.set()

    rows = play(OneAtATime(), ["2", "3"], lambda c, t: Countdown(c, t, before), threads=2)
    assert [row["id"] for row in rows] == ["3", "2"]
    assert all(row["outcome"] == "ended" for row in rows)


def test_oracle_plays_gold_turns_and_names_a_game_without_them() -> None:
    [row] = play(OraclePolicy(), ["2"], Golden)
    assert [turn["text"] for turn in row["turn_scores"]] == ["gold 0", "gold 1"]
    with pytest.raises(BadInput, match="case '2' has no gold_plan and no gold turns"):
        play(OraclePolicy(), ["2"])


def test_turn_scores_of_the_suite_are_merged_and_its_transcript_kept() -> None:
    class Own(Countdown):
        def row(self, outcome: str) -> dict[str, Any]:
            return {"turn_scores": [{"reward": 1.0}], "transcript": ["mine"], "failure": "bored"}

    [row] = play(EchoPolicy(), ["2"], Own)
    assert [turn.get("reward") for turn in row["turn_scores"]] == [1.0, None]
    assert (row["transcript"], row["failure"], len(row["turn_scores"])) == (["mine"], "bored", 2)


def test_conversation_accepts_tools_in_each_common_form() -> None:
    state = conversation(
        "c", [], [{"name": "a"}, {"type": "function", "function": {"name": "b", "parameters": {"x": 1}}}]
    )
    assert [(tool.name, tool.description) for tool in state.tools] == [("a", ""), ("b", "")]
    assert [tool.parameters for tool in state.tools] == [{"type": "object", "properties": {}}, {"x": 1}]
    with pytest.raises(BadInput, match="case 'c': expected a tool with a name"):
        conversation("c", [], [{"description": "nameless"}])
    more = with_messages(state, {"role": "user", "content": "hi"})
    assert (len(state.messages), len(more.messages)) == (0, 1)


def arguments_of(out: Path, *flags: str) -> argparse.Namespace:
    return suite_parser("Example: python -m p", "python -m p", data="d").parse_args(
        ["--policy", "random", "--out", str(out), *flags]
    )


def countdown_suite(
    out: Path, data: Sequence[Path], *flags: str, game: Any = Countdown, policy: Any = None
) -> dict[str, Any]:
    arguments = arguments_of(out, "--trials", "2", "--in-flight", "2", *flags)
    return run_suite(
        arguments,
        "countdown",
        case_ids=["1", "2", "3"][: arguments.limit],
        play=game_player(arguments, game, max_turns=9),
        metrics=["long", GroupedMean("heard_mean", "heard", "long")],
        groups={"by_length": "heard"},
        data_files=data,
        policy=policy or EchoPolicy(),
    )


def test_suite_resumes_replays_faults_and_refuses_another_configuration(tmp_path, capsys) -> None:
    data = tmp_path / "cases.json"
    data.write_text("{}")
    special = {("2", 0): Generation("", 0, 0, False, fault="server gone")}
    first = countdown_suite(tmp_path / "out", [data], policy=EchoPolicy(special))
    assert (first["rows"], first["faults"]) == (4, 2)
    assert {row["fault"] for _, row in read_jsonl(tmp_path / "out" / "faults.jsonl")} == {"server gone"}
    whole = countdown_suite(tmp_path / "out", [data])
    assert (whole["rows"], whole["faults"]) == (6, 0)
    assert not (tmp_path / "out" / "faults.jsonl").read_text()
    assert whole["metrics"]["long"]["value"] == pytest.approx(2 / 3)
    assert whole["metrics"]["heard_mean"]["value"] == pytest.approx((1 + 2.5) / 2)
    assert set(whole["by_length"]) == {"1", "2", "3"}
    resolvable = whole["smallest_resolvable_difference"]
    assert resolvable["long"] > 0 and resolvable["heard_mean"] is None, "a group with one case has no spread"
    policy = EchoPolicy()
    again = countdown_suite(tmp_path / "out", [data], policy=policy)
    assert again == whole and not policy.batches
    assert "all 6 episodes are complete" in capsys.readouterr().out
    with pytest.raises(BadInput, match="seed: 0 in the folder, 4 requested"):
        countdown_suite(tmp_path / "out", [data], "--seed", "4")
    data.write_text("[]")
    with pytest.raises(BadInput, match="data_sha256"):
        countdown_suite(tmp_path / "out", [data])


def without_costs(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key not in ("seconds", "cost")}


def test_raised_limit_and_trials_extend_the_run(tmp_path) -> None:
    data = tmp_path / "cases.json"
    data.write_text("{}")
    out, file = tmp_path / "out", tmp_path / "out" / "results.jsonl"
    first = countdown_suite(out, [data], "--limit", "1", "--trials", "1")
    assert first["rows"] == 1
    kept = file.read_bytes()
    for flags, total in ((("--limit", "2", "--trials", "1"), 2), (("--limit", "2"), 4), ((), 6)):
        more = countdown_suite(out, [data], *flags)
        assert more["rows"] == total
        assert file.read_bytes().startswith(kept)
        kept = file.read_bytes()
    rows = [(row["id"], row["trial"]) for _, row in read_jsonl(file)]
    assert len(rows) == len(set(rows)) == 6
    assert without_costs(more) == without_costs(countdown_suite(tmp_path / "at_once", [data]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--limit", "2"), r"limit: no limit in the folder, 2 requested \(it can be raised later, not lowered\)"),
        (("--trials", "1"), r"trials: 2 in the folder, 1 requested \(it can be raised later, not lowered\)"),
    ],
)
def test_limit_and_trials_are_not_lowered(tmp_path, flags, message) -> None:
    data = tmp_path / "cases.json"
    data.write_text("{}")
    countdown_suite(tmp_path / "out", [data])
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(BadInput, match=message):
        countdown_suite(tmp_path / "out", [data], *flags)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files


def test_row_of_an_unknown_case_is_named(tmp_path) -> None:
    data = tmp_path / "cases.json"
    data.write_text("{}")
    countdown_suite(tmp_path / "out", [data], "--limit", "2")
    with (tmp_path / "out" / "results.jsonl").open("a") as out:
        out.write('{"id": "9", "trial": 0}\n')
    with pytest.raises(BadInput, match=r"results\.jsonl: id '9' is not among the 3 requested cases"):
        countdown_suite(tmp_path / "out", [data])


def test_summary_is_rebuilt_after_a_kill_between_rows_and_summary(tmp_path) -> None:
    data = tmp_path / "cases.json"
    data.write_text("{}")
    countdown_suite(tmp_path / "out", [data], "--limit", "1")
    stale = (tmp_path / "out" / "summary.json").read_bytes()
    whole = countdown_suite(tmp_path / "out", [data])
    for left in (stale, stale[:50]):
        (tmp_path / "out" / "summary.json").write_bytes(left)
        assert without_costs(countdown_suite(tmp_path / "out", [data])) == without_costs(whole)


def test_policy_of_other_content_under_one_path_is_refused_by_every_suite(tmp_path) -> None:
    data, turns = tmp_path / "cases.json", tmp_path / "turns.jsonl"
    data.write_text("{}")
    turns.write_text('{"id": "1", "turns": ["a"]}\n')
    flags = ("--policy", f"replay:{turns}")
    countdown_suite(tmp_path / "out", [data], *flags, "--limit", "1")
    kept = (tmp_path / "out" / "results.jsonl").read_bytes()
    turns.write_text('{"id": "1", "turns": ["b"]}\n')
    with pytest.raises(BadInput, match=r"policy_content\.sha256: '\w+' in the folder, '\w+' requested"):
        countdown_suite(tmp_path / "out", [data], *flags)
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == kept
    (tmp_path / "moved.jsonl").write_text('{"id": "1", "turns": ["a"]}\n')
    moved = countdown_suite(tmp_path / "out", [data], "--policy", f"replay:{tmp_path / 'moved.jsonl'}")
    assert moved["rows"] == 6


def test_data_files_with_the_same_name_are_distinguished(tmp_path) -> None:
    files = []
    for domain in ("retail", "airline"):
        (tmp_path / domain).mkdir()
        (tmp_path / domain / "tasks.json").write_text(domain)
        files.append(tmp_path / domain / "tasks.json")
    summary = countdown_suite(tmp_path / "out", files)
    assert set(summary["data_sha256"]) == {"retail/tasks.json", "airline/tasks.json"}
    assert len(set(summary["data_sha256"].values())) == 2
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert written == summary


def test_suites_share_one_model_and_another_setting_replaces_it(monkeypatch, tmp_path) -> None:
    loaded: list[tuple[str, int]] = []

    def load(spec: str, **settings: Any) -> EchoPolicy:
        loaded.append((spec, settings["max_new_tokens"]))
        return EchoPolicy()

    monkeypatch.setattr(suite, "load_policy", load)
    with one_policy():
        same = [suite.load_suite_policy(arguments_of(tmp_path / name)) for name in ("a", "b")]
        assert same[0] is same[1]
        suite.load_suite_policy(arguments_of(tmp_path, "--max-new-tokens", "8"))
        suite.load_suite_policy(arguments_of(tmp_path))
    assert loaded == [("random", 1024), ("random", 8), ("random", 1024)]
    suite.load_suite_policy(arguments_of(tmp_path))
    suite.load_suite_policy(arguments_of(tmp_path))
    assert len(loaded) == 5


def test_row_nested_too_deeply_loses_only_its_transcript() -> None:
    written: list[dict[str, Any]] = []

    def on_row(row: dict[str, Any]) -> None:
        if row["transcript"]:
            raise RecursionError
        written.append(row)

    game_player(argparse.Namespace(seed=0, in_flight=1), Countdown, max_turns=2)(EchoPolicy(), [("1", 0)], on_row)
    assert [(row["transcript"], len(row["turn_scores"])) for row in written] == [([], 1)]
