"""tau-bench on two synthetic domains: episodes with a local server as the user, and every branch of the reward."""

from __future__ import annotations

import copy
import gc
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput
from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox, ToolSession
from eval import tau_bench
from eval.rescore import rescore
from eval.suites.results import read_rows
from eval.suites.suite import DataMissing
from eval.tau.domains import Domain, fingerprint, read_domain, read_tasks
from eval.tau.game import first_call, required_outputs_said
from eval.tau_bench import parser, run
from reward.tool_calls import render_call
from train.policies.interface import Generation, PolicyRequest


def call(name: str, **arguments: Any) -> str:
    return render_call(ToolCall(name, arguments))


CANCEL_B1 = call("cancel_booking", booking="B1")
CANCEL_B2 = call("cancel_booking", booking="B2")
READ_B1 = call("read_booking", booking="B1")
HAND_OVER = call("transfer_to_human_agents", summary="as asked")


class Agent:
    """Says `turns[case id]` in order, then "Good day." at every turn."""

    name = "agent"

    def __init__(self, turns: dict[str, list[str]]) -> None:
        self.turns = turns

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        said = [self.turns.get(r.case_id, [])[r.turn : r.turn + 1] for r in requests]
        return [Generation(lines[0] if lines else "Good day.", 4, 9, False) for lines in said]


def played(folder: Path, policy: Any, *flags: str, user: str = "scripted") -> tuple[dict[str, Any], dict[str, Any]]:
    """The summary and, by case id, the rows of a run on the synthetic domains."""
    out = folder.parent / "out"
    name = getattr(policy, "name", policy)
    required = ["--policy", name, "--data", str(folder), "--out", str(out), "--user-model", user, "--user-threads", "4"]
    summary = run(parser().parse_args([*required, *flags]), None if isinstance(policy, str) else policy)
    file = out / "results.jsonl"
    return summary, {row["id"]: row for row in read_rows(file)} if file.stat().st_size else {}


def test_oracle_plays_the_recorded_actions_and_gets_full_marks(tau_folder: Path) -> None:
    summary, rows = played(tau_folder, "oracle", "--trials", "2")
    assert {case: row["failure"] for case, row in rows.items()} == dict.fromkeys(rows, "")
    assert len(rows) == 6
    assert summary["metrics"]["pass^1"]["value"] == 1.0
    assert summary["pass_hat_k"]["mean"]["pass^2"]["value"] == 1.0
    assert {case for case, row in rows.items() if row["handed_over"]} == {"airline/2", "retail/1"}
    assert rows["retail/1"]["failed_calls"] == 1


def test_doing_nothing_solves_tasks_that_need_no_change(tau_folder: Path) -> None:
    """tau-bench's own rule: any polite agent solves a task whose right database is the initial one."""
    summary, rows = played(tau_folder, Agent({}))
    assert {case: row["failure"] for case, row in rows.items()} == {
        "airline/0": "wrong_database",
        "airline/1": "missing_output",
        "airline/2": "",
        "airline/3": "wrong_database",
        "retail/0": "wrong_database",
        "retail/1": "",
    }
    assert summary["metrics"]["pass^1"]["value"] == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert summary["by_domain"]["retail"]["pass^1"]["value"] == 0.5


def plain_replay(folder: Path, domain: str, calls: list[tuple[str, dict[str, Any]]]) -> Any:
    """The database after calls, by running the tools' code in this process."""
    place = folder / "tau-bench" / domain
    codes = json.loads((place / "codes.json").read_text())
    data = {
        path.stem: json.loads(path.read_text())
        for path in place.glob("*.json")
        if path.name not in ("codes.json", "tools.json")
    }
    for name, arguments in calls:
        space: dict[str, Any] = {}
        exec(codes[name], space)
        try:
            space[name](data=data, **arguments)
        except Exception:
            continue
    return data


def tau_verdict(folder: Path, record: dict[str, Any], transcript: list[dict[str, Any]]) -> float:
    """tau-bench's reward of a transcript, computed from its description alone; 0 unless the episode ended by itself."""
    domain = record["data_source"].split("/")[1]
    made = [
        (message["tool_calls"][0]["function"]["name"], message["tool_calls"][0]["function"]["arguments"])
        for message in transcript
        if message.get("tool_calls")
    ]
    ended = any("###STOP###" in m["content"] for m in transcript[2:] if m["role"] == "user") or (
        made and made[-1][0] == "transfer_to_human_agents"
    )
    recorded = [(a["function"]["name"], json.loads(a["function"]["arguments"])) for a in record["actions"]]
    known = json.loads((folder / "tau-bench" / domain / "codes.json").read_text())
    known.pop("loop", None)  # it ends its process, and changes nothing
    same = plain_replay(folder, domain, [c for c in made if c[0] in known]) == plain_replay(folder, domain, recorded)
    spoken = [
        message["content"].lower().replace(",", "")
        for message in transcript
        if message["role"] == "assistant" and not message.get("tool_calls")
    ]
    said = all(any(output.lower() in text for text in spoken) for output in record["outputs"])
    return float(bool(ended) and same and said)


EPISODES: dict[str, dict[str, list[str]]] = {
    "right": {
        "airline/0": [CANCEL_B1, "Done."],
        "airline/1": [READ_B1, "It was $1,200 for TWO SEATS."],
        "airline/2": [HAND_OVER],
        "airline/3": [CANCEL_B1, CANCEL_B2, "You get 1299.5 back."],
        "retail/0": [call("move_order", order="#7", city="Suva"), "Done."],
        "retail/1": [HAND_OVER],
    },
    "other database": {
        "airline/0": [CANCEL_B1, CANCEL_B1, "Done."],
        "airline/1": [CANCEL_B1, "1200, two seats"],
        "airline/2": [CANCEL_B1, HAND_OVER],
        "airline/3": [CANCEL_B1, "1299.5"],
        "retail/0": [call("move_order", order="#7", city="suva"), "Done."],
        "retail/1": [call("move_order", order="#8", city="Suva"), HAND_OVER],
    },
    "outputs": {
        # in a message with a call, split over two messages, and only in the tool output
        "airline/1": ["1200, two seats " + READ_B1, "As I said."],
        "airline/3": [CANCEL_B2, CANCEL_B1, "You get 1 299.5 back."],
    },
    "hand-over in the middle": {
        "airline/0": [HAND_OVER, CANCEL_B1, "Done."],
        "airline/3": [CANCEL_B2, CANCEL_B1, HAND_OVER],
        "retail/1": [call("transfer_to_human_agents"), "Done."],
        "airline/2": [call("transfer_to_human_agent", summary="misspelt"), "Done."],
    },
    "failing calls change nothing": {
        "airline/0": [call("read_booking", booking="B9"), call("loop", n=1), CANCEL_B1, "Done."],
        "airline/1": [call("no_such_tool", x=1), "1200 and two seats"],
        "retail/0": [call("move_order", order="#7", city="Suva", express=True), "Sorry."],
    },
}


@pytest.mark.parametrize("name", EPISODES)
def test_reward_follows_tau_benchs_rule_on_the_same_transcript(tau_folder: Path, name: str) -> None:
    _, rows = played(tau_folder, Agent(EPISODES[name]))
    records = [json.loads(line) for line in (tau_folder / "tau-bench.jsonl").read_text().splitlines()]
    by_id = {task.id: record for task, record in zip(read_tasks(tau_folder / "tau-bench.jsonl"), records, strict=True)}
    for case, row in rows.items():
        assert row["reward"] == tau_verdict(tau_folder, by_id[case], row["transcript"]), case
    if name == "right":
        assert [row["reward"] for row in rows.values()] == [1.0] * 6
    if name == "other database":
        assert [row["reward"] for row in rows.values()] == [0.0] * 6


def test_differences_from_the_published_check(tau_folder: Path) -> None:
    """Defect 8: the published check reads outputs in messages with a call; its hand-over never ends an episode."""
    _, rows = played(
        tau_folder,
        Agent(
            {
                "airline/1": [READ_B1, "1200 and two seats"],  # said to the user, as asked
                "airline/3": ["1299.5 " + CANCEL_B1, CANCEL_B2, "Done."],  # never said to the user
                "airline/2": [HAND_OVER],
            }
        ),
    )
    found = {case: (rows[case]["reward"], rows[case]["reward_published"], rows[case]["turns"]) for case in rows}
    assert found["airline/1"] == (1.0, 0.0, 2)
    assert found["airline/3"] == (0.0, 1.0, 3)
    assert found["airline/2"] == (1.0, 1.0, 1)
    assert rows["airline/3"]["failure"] == "missing_output"


def test_an_unfinished_episode_is_unsolved_even_if_the_database_is_right(tau_folder: Path) -> None:
    _, rows = played(tau_folder, Agent({"airline/0": [CANCEL_B1, *[READ_B1] * 40]}), "--limit", "1")
    row = rows["airline/0"]
    assert (row["turns"], row["outcome"], row["failure"], row["reward"]) == (30, "max_turns", "max_turns", 0.0)
    assert (row["db_match"], row["outputs_said"]) == (None, None)


def test_required_outputs_ignore_case_and_commas() -> None:
    assert required_outputs_said((), ())
    assert required_outputs_said(("1786", "Two Seats"), ("It is $1,786.", "TWO SEATS"))
    assert not required_outputs_said(("1786",), ("It is 1.786",))
    assert not required_outputs_said(("1,786",), ("It is 1,786",)), "a comma in the output itself is never found"
    assert not required_outputs_said(("1786", "x"), ("1786",))


def test_databases_are_equal_exactly_as_in_tau_bench() -> None:
    def hashable(item: Any) -> Any:
        if isinstance(item, dict):
            return tuple((key, hashable(value)) for key, value in sorted(item.items()))
        return tuple(hashable(element) for element in item) if isinstance(item, list) else item

    def tau_hash(item: Any) -> str:
        return hashlib.sha256(str(hashable(item)).encode()).hexdigest()

    values: list[Any] = [
        {"a": 1, "b": [1, 2]},
        {"b": [1, 2], "a": 1},
        {"b": [2, 1], "a": 1},
        {"a": 1.0, "b": [1, 2]},
        {"a": True, "b": [1, 2]},
        {"a": None, "b": [1, 2]},
        {"a": "1", "b": [1, 2]},
        {"a": 1e21, "b": []},
        {"a": {"é": ""}},
    ]
    for one in values:
        for other in values:
            assert (fingerprint(one) == fingerprint(other)) == (tau_hash(one) == tau_hash(other)), (one, other)


def test_one_call_per_turn(tau_folder: Path) -> None:
    _, rows = played(tau_folder, Agent({"airline/3": [f"{CANCEL_B1}\n{CANCEL_B2}", "1299.5"]}), "--domains", "airline")
    row = rows["airline/3"]
    assert (row["calls"], row["dropped_calls"], row["failure"]) == (1, 1, "wrong_database")
    assert len(row["transcript"][2]["tool_calls"]) == 1


@pytest.mark.parametrize(
    ("text", "match", "calls", "dropped", "content"),
    [
        (f"Hm. {CANCEL_B1}", "published", 1, 0, "Hm."),
        (f"{CANCEL_B1}{CANCEL_B2}{READ_B1}", "strict", 1, 2, ""),
        (f"{CANCEL_B1}{CANCEL_B2}{READ_B1}", "published", 1, 2, ""),
        # published: an invalid first block makes the entire turn a message; strict: the first call counts
        ("<tool_call>{</tool_call>" + CANCEL_B1, "published", 0, 1, "<tool_call>{</tool_call>" + CANCEL_B1),
        ("<think>hm</think>So: <tool_call>{</tool_call>x", "published", 0, 0, "So: <tool_call>{</tool_call>x"),
        ("<tool_call>{</tool_call>" + CANCEL_B1, "strict", 1, 0, ""),
        ("no call", "published", 0, 0, "no call"),
        ("", "published", 0, 0, ""),
        (f"<think>{CANCEL_B1}</think>Hello", "strict", 0, 0, "Hello"),
        ("<think>secret</think>Hello", "published", 0, 0, "Hello"),
    ],
)
def test_first_call_of_a_turn(text: str, match: str, calls: int, dropped: int, content: str) -> None:
    turn, left_out = first_call(text, match)
    assert (len(turn.calls), left_out, turn.content) == (calls, dropped, content)


def test_a_server_plays_the_user(tau_folder: Path, user_server: Any) -> None:
    def line(body: dict[str, Any]) -> str:
        mine = [message["content"] for message in body["messages"] if message["role"] == "assistant"]
        return ("I want B1 cancelled.", "<think>\nhm\n</think>\nYes, please.", "###STOP###")[len(mine)]

    user_server.line = line
    agent = Agent({"airline/0": ["<think>why?</think>Are you sure?", CANCEL_B1, "Cancelled."]})
    _, rows = played(tau_folder, agent, "--limit", "1", "--domains", "airline", user=user_server.spec)
    row = rows["airline/0"]
    assert (row["reward"], row["turns"]) == (1.0, 3)
    assert row["user_turns"] == ["I want B1 cancelled.", "Yes, please.", "###STOP###"]
    seen = [(message["role"], message["content"]) for message in row["transcript"]]
    assert seen[:4] == [
        ("system", "# The rules of airline\n"),
        ("user", "I want B1 cancelled."),
        ("assistant", "Are you sure?"),
        ("user", "Yes, please."),
    ]
    last = user_server.bodies[-1]
    assert (last["model"], last["temperature"], last["max_tokens"]) == ("customer", 0.0, 512)
    assert "tools" not in last
    assert [(message["role"], message["content"]) for message in last["messages"][1:]] == [
        ("user", "Hi! How can I help you today?"),
        ("assistant", "I want B1 cancelled."),
        ("user", "Are you sure?"),
        ("assistant", "Yes, please."),
        ("user", "Cancelled."),
    ]
    assert last["messages"][0]["role"] == "system"
    assert "Your instruction: Cancel B1." in last["messages"][0]["content"]


def test_faults_of_the_user_are_excluded_not_scored(tau_folder: Path, user_server: Any) -> None:
    def line(body: dict[str, Any]) -> str | tuple[int, str]:
        prompt = body["messages"][0]["content"]
        if "Cancel B1." in prompt:
            return 401, "wrong key"
        if "What did B1 cost?" in prompt and len(body["messages"]) > 2:
            return 401, "key has run out"
        if "Ask for a human." in prompt:
            return "<think>nothing to say</think>"
        return "###STOP###" if len(body["messages"]) > 2 else "Hello."

    user_server.line = line
    summary, rows = played(tau_folder, Agent({}), "--domains", "airline", user=user_server.spec)
    assert (summary["faults"], summary["rows"], list(rows)) == (3, 1, ["airline/3"])
    faults = {row["id"]: row["fault"] for row in read_rows(tau_folder.parent / "out" / "faults.jsonl")}
    assert "wrong key" in faults["airline/0"]
    assert "key has run out" in faults["airline/1"]
    assert "said nothing" in faults["airline/2"]


HTML = b"<html><body>Welcome to the console</body></html>"


def test_invalid_replies_of_the_users_model_are_faults_of_their_episodes(tau_folder: Path, user_server: Any) -> None:
    chunks = [{"type": "thinking", "thinking": "They know."}, {"type": "text", "text": "Hello."}]
    odd = {
        "Cancel B1.": b'{"choices": [{"message": null}]}',
        "What did B1 cost?": HTML,
        "Ask for a human.": b'{"error": {"message": "model is not loaded"}, "choices": null}',
    }

    def line(body: dict[str, Any]) -> Any:
        prompt = body["messages"][0]["content"]
        return next((odd[key] for key in odd if key in prompt), chunks if len(body["messages"]) == 2 else "###STOP###")

    user_server.line = line
    summary, rows = played(tau_folder, Agent({}), "--domains", "airline", user=user_server.spec)
    assert (summary["faults"], list(rows)) == (3, ["airline/3"])
    assert rows["airline/3"]["user_turns"] == ["Hello.", "###STOP###"]
    faults = [row["fault"] for row in read_rows(tau_folder.parent / "out" / "faults.jsonl")]
    assert all(
        any(words in fault for fault in faults) for words in ("'choices.0.message'", "Welcome", "model is not loaded")
    )


@pytest.mark.parametrize("words", ["Welcome to the console", "wrong key"])
def test_a_user_that_never_answers_ends_the_run_in_one_line(tau_folder: Path, user_server: Any, words: str) -> None:
    user_server.line = lambda body: HTML if words.startswith("Welcome") else (401, words)
    with pytest.raises(
        BadInput, match=f"no episode of 4 could be played; 4 times: the simulated user failed: .*{words}"
    ):
        played(tau_folder, Agent({}), "--domains", "airline", user=user_server.spec)


def test_a_message_too_long_for_the_user_ends_the_episode_unsolved(tau_folder: Path, user_server: Any) -> None:
    user_server.line = lambda body: (
        (400, "This model's maximum context length is 4096 tokens") if len(body["messages"]) > 2 else "Hello."
    )
    agent = Agent({"airline/2": ["word " * 200_000]})
    summary, rows = played(tau_folder, agent, "--domains", "airline", user=user_server.spec)
    assert summary["faults"] == 0
    assert {row["failure"] for row in rows.values()} == {"user_left"}
    assert summary["metrics"]["pass^1"]["value"] == 0.0


HOSTILE = {
    "empty": "",
    "half a call": '<tool_call>\n{"name": "cancel_booking", "arg',
    "a megabyte": "a" * (1 << 20),
    "fences": '```json\n{"name": "cancel_booking", "arguments": {"booking": "B1"}}\n```',
    "no object": '<tool_call>{"name": "cancel_booking", "arguments": [1]}</tool_call>',
    "another tool": call("delete_everything", now=True),
    "wrong arguments": call("cancel_booking", data={}, booking="B1"),
    "surrogates": call("read_booking", booking="\ud800") + "\udfff",
    "call after the answer": "Your money, 1299.5, comes back. " + CANCEL_B1,
    "deep": '<tool_call>{"name": "read_booking", "arguments": {"booking": ' + "[" * 5000 + "</tool_call>",
}


@pytest.mark.parametrize("match", ["published", "strict"])
def test_hostile_output_ends_in_a_scored_row(tau_folder: Path, match: str) -> None:
    """Each case gets several hostile turns in sequence, then the same call twenty times."""
    turns = list(HOSTILE.values())
    agent = Agent(
        {
            "airline/0": turns[:1],
            "airline/1": turns[1:2],
            "airline/2": turns[2:3],
            "airline/3": [*turns[4:], *[CANCEL_B1] * 20],
            "retail/0": turns[3:4],
            "retail/1": [call("move_order", order="#8", city="X")] * 20,
        }
    )
    summary, rows = played(tau_folder, agent, "--match", match)
    assert (summary["faults"], len(rows)) == (0, 6)
    assert {case: row["failure"] for case, row in rows.items()} == {
        "airline/0": "wrong_database",
        "airline/1": "missing_output",
        "airline/2": "",
        "airline/3": "wrong_database",
        "retail/0": "wrong_database",
        "retail/1": "wrong_database",
    }
    assert rows["retail/1"]["calls"] == 20


def test_a_database_is_read_once_and_sent_once_per_episode(tau_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    handed: list[int] = []
    opened, reader = ToolSandbox.open_session, tau_bench.read_domain

    def counting(self: ToolSandbox, codes: Any, state: Any) -> ToolSession:
        handed.append(id(state))
        return opened(self, codes, state)

    def reading(folder: Path, name: str) -> Domain:
        read.append(name)
        return reader(folder, name)

    monkeypatch.setattr(ToolSandbox, "open_session", counting)
    monkeypatch.setattr(tau_bench, "read_domain", reading)
    turns = {"airline/0": [READ_B1] * 9 + [CANCEL_B1, "Done."], "airline/1": ["no call at all"]}
    _, rows = played(tau_folder, Agent(turns), "--domains", "airline", "--limit", "2", "--trials", "3")
    assert rows["airline/0"]["calls"] == 10
    assert read == ["airline"]
    # three episodes of the first task, none of the second (no calls), and the recorded actions of each task once
    assert 4 <= len(handed) <= 3 + 2 * 3
    assert len(set(handed)) == 1


@pytest.mark.parametrize("broken", ["the user", "the policy"])
def test_sessions_end_with_their_episodes_even_after_a_fault(
    tau_folder: Path, monkeypatch: pytest.MonkeyPatch, user_server: Any, broken: str
) -> None:
    sessions: list[ToolSession] = []
    opened = ToolSandbox.open_session

    def keeping(self: ToolSandbox, codes: Any, state: Any) -> ToolSession:
        sessions.append(opened(self, codes, state))
        return sessions[-1]

    monkeypatch.setattr(ToolSandbox, "open_session", keeping)
    user_server.line = lambda body: (401, "gone") if len(body["messages"]) > 2 else "Hello."

    class Breaking(Agent):
        def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
            said = super().generate(requests)
            if broken == "the policy" and requests[0].turn == 1:
                return [Generation("", 0, 0, False, fault="gone")] * len(said)
            return said

    agent = Breaking({f"airline/{place}": [READ_B1, "Anything else?"] for place in range(4)})
    with pytest.raises(BadInput, match=r"no episode of 4 could be played; 4 times: .*gone"):
        played(tau_folder, agent, "--domains", "airline", user=user_server.spec)
    gc.collect()
    assert len(sessions) == 4
    assert all(session._closed for session in sessions)


def test_calls_leave_the_database_in_this_process_alone(tau_folder: Path) -> None:
    domain = read_domain(tau_folder / "tau-bench", "airline")
    before = copy.deepcopy(domain.database)
    [task] = [task for task in read_tasks(tau_folder / "tau-bench.jsonl") if task.id == "airline/0"]
    with ToolSandbox(workers=1) as sandbox:
        right = domain.right_database(task, sandbox)
        assert domain.right_database(task, sandbox) == right
    assert domain.database == before
    assert right == fingerprint(plain_replay(tau_folder, "airline", [("cancel_booking", {"booking": "B1"})]))


def test_trials_differ_and_pass_hat_k_counts_them(tau_folder: Path) -> None:
    class Unsteady(Agent):
        def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
            texts = [(CANCEL_B1 if r.trial < 3 else "No.") if r.turn == 0 else "Done." for r in requests]
            return [Generation(text, 1, 1, False) for text in texts]

    summary, _ = played(tau_folder, Unsteady({}), "--domains", "airline", "--limit", "1", "--trials", "4")
    values = {name: estimate["value"] for name, estimate in summary["pass_hat_k"]["airline"].items()}
    assert values == {"pass^1": 0.75, "pass^2": 0.5, "pass^3": 0.25, "pass^4": 0.0}


def test_recorded_agents_and_users_are_scored_again_without_a_model(tau_folder: Path, user_server: Any) -> None:
    user_server.line = lambda body: "###STOP###" if len(body["messages"]) > 4 else "Well, go on."
    agent = Agent({"airline/0": ["Sure?", CANCEL_B1, "Cancelled."], "retail/0": ["Where to?", "I cannot."]})
    summary, rows = played(tau_folder, agent, user=user_server.spec)
    asked = len(user_server.bodies)
    recorded = tau_folder.parent / "recorded.jsonl"
    (tau_folder.parent / "out" / "results.jsonl").rename(recorded)
    (tau_folder.parent / "out").rename(tau_folder.parent / "first")
    again, rows_again = played(tau_folder, f"replay:{recorded}", user=f"replay:{recorded}")
    assert len(user_server.bodies) == asked
    assert again["metrics"]["pass^1"] == summary["metrics"]["pass^1"]
    assert {case: row["transcript"] for case, row in rows_again.items()} == {
        case: row["transcript"] for case, row in rows.items()
    }


def test_rescoring_repeats_the_simulated_users_lines(tau_folder: Path, user_server: Any) -> None:
    user_server.line = lambda body: "###STOP###" if len(body["messages"]) > 4 else "Well, go on."
    played(tau_folder, Agent({"airline/0": ["Sure?", CANCEL_B1, "Cancelled."]}), user=user_server.spec)
    asked = len(user_server.bodies)
    found = rescore(tau_folder.parent / "out", tau_folder.parent / "again", str(tau_folder), ["--match", "strict"])
    assert len(user_server.bodies) == asked, "no model is queried"
    assert found["changed"] == [] and found["comparison"]["faults_b"] == 0


def test_random_policy_plays(tau_folder: Path) -> None:
    summary, rows = played(tau_folder, "random")
    assert (summary["rows"], summary["faults"], len(rows)) == (6, 0, 6)


def test_user_prompt_from_a_file(tau_folder: Path, user_server: Any) -> None:
    prompt = tau_folder.parent / "prompt.txt"
    prompt.write_text("Be a customer: {instruction}", encoding="utf-8-sig")
    played(
        tau_folder,
        Agent({}),
        "--limit",
        "1",
        "--user-prompt",
        str(prompt),
        "--domains",
        "retail",
        user=user_server.spec,
    )
    assert user_server.bodies[0]["messages"][0]["content"] == "Be a customer: Send #7 to Suva."
    prompt.write_text("no place")
    with pytest.raises(BadInput, match=r"\{instruction\}"):
        played(tau_folder, Agent({}), "--user-prompt", str(prompt))


def test_an_unknown_user_spec_is_refused(tau_folder: Path) -> None:
    with pytest.raises(BadInput, match="MODEL@BASE_URL, replay:FILE or scripted"):
        played(tau_folder, Agent({}), user="gpt")
    arguments = parser().parse_args(["--policy", "random", "--data", str(tau_folder), "--out", "out"])
    with pytest.raises(DataMissing, match="--user-model"):
        run(arguments)


def test_missing_data_are_named_with_their_source(tau_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tau_folder.parent)
    arguments = parser().parse_args(["--policy", "random", "--out", "out", "--user-model", "scripted"])
    with pytest.raises(DataMissing, match=r"tau-bench\.jsonl: no such file.*bytedance/FTRL.*eval\.download tau_bench"):
        run(arguments)
    (tau_folder / "tau-bench/retail/codes.json").unlink()
    with pytest.raises(DataMissing, match=r"codes\.json: no such file"):
        played(tau_folder, Agent({}))
    for table in (tau_folder / "tau-bench/airline").glob("[bs]*.json"):
        table.unlink()
    with pytest.raises(DataMissing, match="no database"):
        played(tau_folder, Agent({}), "--domains", "airline")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_source": "tau-bench/telecom"}, "'data_source'"),
        ({"instruction": 3}, "'instruction'"),
        ({"outputs": [7]}, "'outputs'"),
        ({"actions": "none"}, "'actions': expected a list"),
        ({"actions": [{"function": {"name": "f"}}]}, "'actions': expected OpenAI"),
        ({"actions": [{"function": {"name": "f", "arguments": "{"}}]}, "'actions': expected OpenAI"),
        ({"actions": [{"function": {"name": "f", "arguments": "[1]"}}]}, "'actions': expected a name"),
    ],
)
def test_broken_tasks_are_named_with_line_and_key(tau_folder: Path, change: dict[str, Any], message: str) -> None:
    path = tau_folder / "tau-bench.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    path.write_text(f"{json.dumps(first)}\n{json.dumps({**first, **change})}\n")
    with pytest.raises(BadInput, match=rf"tau-bench\.jsonl:2: key {message}"):
        read_tasks(path)


def test_recorded_actions_name_tools_of_the_domain(tau_folder: Path) -> None:
    path = tau_folder / "tau-bench.jsonl"
    record = json.loads(path.read_text().splitlines()[0])
    record["actions"][0]["function"]["name"] = "move_order"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(BadInput, match="airline/0: recorded action 'move_order'"):
        played(tau_folder, Agent({}), "--domains", "airline")


def test_broken_domain_files_are_named(tau_folder: Path) -> None:
    place = tau_folder / "tau-bench"
    (place / "airline/bookings.json").write_text("{")
    with pytest.raises(BadInput, match=r"bookings\.json: expected JSON"):
        read_domain(place, "airline")
    (place / "retail/tools.json").write_text("{}")
    with pytest.raises(BadInput, match=r"tools\.json: expected a list"):
        read_domain(place, "retail")
    (place / "retail/tools.json").write_text("[]")
    (place / "retail/codes.json").write_text("[]")
    with pytest.raises(BadInput, match=r"codes\.json: expected an object"):
        read_domain(place, "retail")
