"""Scoring turns and episodes through the sandbox: kinds and their precedence, p, q and t, state, faults."""

import gc
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment, read_environments
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolResult, ToolSandbox
from reward.rewards import REWARDS
from reward.scoring import PAUSE_ITEMS, advance, check_gold, score_episode, score_turn, score_turns
from reward.tool_calls import render_call

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ftrl_test_sample.jsonl"
CODES = {
    # computes its output, so that no answer is in its arguments
    "say": "def say(text):\n    return bytes.fromhex(text).decode()\n",
    "give": "def give(**kw):\n    return dict(kw)\n",
    "fail": "def fail(text):\n    raise ValueError(text)\n",
}


def environment(unsolved: dict[str, list[str]], answer: str | None = None, solve_rate: float = 0.0) -> Environment:
    return Environment(
        messages=[{"role": "user", "content": "?"}],
        tools=[],
        codes=CODES,
        unsolved_set=unsolved,
        answer=answer,
        solve_rate=solve_rate,
    )


def say(text: str, tool: str = "say") -> str:
    return render_call(ToolCall(tool, {"text": text.encode().hex() if tool == "say" else text})) + "\n"


BROKEN = "<tool_call>\n{broken\n</tool_call>\n"
TWO: dict[str, list[str]] = {"say": ["Paris", "4,478"]}
# name -> (unsolved, answer, solve_rate, text, in published (reward, kind, p, q), in strict)
KINDS: dict[str, Any] = {
    "one of two solved": (TWO, "x", 0.0, say("In Paris"), (1.0, "calls", 1, 1), (1.0, "calls", 1, 1)),
    "both solved": (TWO, "x", 0.0, say("Paris") + say("4478 m"), (4 / 3, "calls", 2, 2), (4 / 3, "calls", 2, 2)),
    "one useless call": (TWO, "x", 0.0, say("Paris") + say("no"), (2 / 3, "calls", 2, 1), (2 / 3, "calls", 2, 1)),
    "the same call twice": (TWO, "x", 0.0, say("Paris") * 2, (2 / 3, "calls", 2, 1), (2 / 3, "calls", 2, 1)),
    "another tool's sub-answer": (
        {"give": ["Paris"]}, None, 0.0, say("Paris"), (0.0, "calls", 1, 0), (0.0, "calls", 1, 0),
    ),
    "unknown tool": (TWO, None, 0.0, say("Paris", "nope"), (0.0, "calls", 1, 0), (0.0, "calls", 1, 0)),
    "one call for both": (TWO, "x", 0.0, say("Paris, 4478 m"), (1.0, "calls", 1, 1), (4 / 3, "calls", 2, 2)),
    "the call for both, repeated": (
        TWO, "x", 0.0, say("Paris, 4478 m") * 2, (4 / 3, "calls", 2, 2), (1.0, "calls", 3, 2),
    ),
    "two equal sub-answers, one call repeated": (
        {"say": ["Paris", "Paris"]}, "x", 0.0, say("Paris") * 2, (4 / 3, "calls", 2, 2), (2 / 3, "calls", 2, 1),
    ),
    "echo": (
        {"give": ["Paris"]}, None, 0.0, render_call(ToolCall("give", {"a": "Paris"})),
        (1.0, "calls", 1, 1), (0.0, "calls", 1, 0),
    ),
    "returned error": (
        TWO, None, 0.0, say('{"error": "no data for Paris"}'), (1.0, "calls", 1, 1), (0.0, "calls", 1, 0),
    ),
    "enumeration": (
        TWO, None, 0.0, say(str([*range(4400, 4500)])), (1.0, "calls", 1, 1), (0.0, "calls", 1, 0),
    ),
    "final text lists the sub-answers": (
        {}, "Rome", 1.0, "Paris, 4478, Rome", (1.0, "answer", 0, 0), (0.5, "all_solved_no_answer", 0, 0),
    ),
    "error text": ({"fail": ["Paris"]}, None, 0.0, say("Paris", "fail"), (1.0, "calls", 1, 1), (0.0, "calls", 1, 0)),
    "substring": ({"say": ["2"]}, None, 0.0, say("2023"), (1.0, "calls", 1, 1), (0.0, "calls", 1, 0)),
    "broken call beside": (TWO, "x", 0.0, BROKEN + say("Paris"), (1.0, "calls", 1, 1), (2 / 3, "calls", 2, 1)),
    "order of sub-answers": (
        {"say": ["1", "12"]}, None, 0.0, say("12") + say("1"), (2 / 3, "calls", 2, 1), (4 / 3, "calls", 2, 2),
    ),
    "call in thinking": (
        TWO, "x", 0.0, f"<think>{say('Paris')}</think>done", (1.0, "calls", 1, 1), (0.0, "other", 0, 0),
    ),
    # calls take precedence over everything else: an answer beside them does not count
    "call and answer": (TWO, "Rome", 1.0, "Rome" + say("no"), (0.0, "calls", 1, 0), (0.0, "calls", 1, 0)),
    "empty": (TWO, "x", 1.0, "", (-0.5, "empty", 0, 0), (-0.5, "empty", 0, 0)),
    "only end tokens": (TWO, "x", 1.0, " <|im_end|>\n", (-0.5, "empty", 0, 0), (-0.5, "empty", 0, 0)),
    "only thinking": (TWO, "x", 0.0, "<think>hm</think>", (0.0, "other", 0, 0), (-0.5, "empty", 0, 0)),
    "malformed": (TWO, None, 0.0, BROKEN, (-0.3, "malformed", 0, 0), (-0.3, "malformed", 1, 0)),
    "closing tag": (TWO, None, 0.0, "a</tool_call>", (-0.3, "malformed", 0, 0), (-0.3, "malformed", 1, 0)),
    "parsed_response": (
        TWO, None, 0.0, "<tool_parsed_response>", (-0.3, "malformed", 0, 0), (-0.3, "malformed", 0, 0),
    ),
    # malformed takes precedence over the answer
    "malformed and answer": (TWO, "Rome", 1.0, "Rome" + BROKEN, (-0.3, "malformed", 0, 0), (-0.3, "malformed", 1, 0)),
    "tag named in thinking": (
        TWO, "Rome", 0.0, "<think>a <tool_call></think>Rome", (-0.3, "malformed", 0, 0), (1 / 3, "answer", 0, 0),
    ),
    "answer, nothing solved": (TWO, "Rome", 0.0, "It is rome.", (1 / 3, "answer", 0, 0), (1 / 3, "answer", 0, 0)),
    "answer, all solved": ({"say": []}, "Rome", 1.0, "Rome", (1.0, "answer", 0, 0), (1.0, "answer", 0, 0)),
    "answer as substring": (TWO, "no", 0.0, "unknown", (1 / 3, "answer", 0, 0), (0.0, "other", 0, 0)),
    "answer in thinking": (
        TWO, "Rome", 0.0, "<think>Rome?</think>I pass.", (1 / 3, "answer", 0, 0), (0.0, "other", 0, 0),
    ),
    "wrong answer, all solved": (
        {"say": []}, "Rome", 1.0, "Oslo", (0.5, "all_solved_no_answer", 0, 0), (0.5, "all_solved_no_answer", 0, 0),
    ),
    "no answer known, all solved": (
        {}, None, 1.0, "Oslo", (0.5, "all_solved_no_answer", 0, 0), (0.5, "all_solved_no_answer", 0, 0),
    ),
    "wrong answer": (TWO, "Rome", 0.5, "Oslo", (0.0, "other", 0, 0), (0.0, "other", 0, 0)),
    "no answer known": (TWO, None, 0.0, "Oslo", (0.0, "other", 0, 0), (0.0, "other", 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("match", ["published", "strict"])
@pytest.mark.parametrize("name", KINDS)
def test_kinds_and_counts(name, match, sandbox):
    unsolved, answer, rate, text, published, strict = KINDS[name]
    start = environment(unsolved, answer, rate)
    if name.startswith("final text lists"):
        start.solved_set = TWO
    score = score_turn(start, text, match=match, sandbox=sandbox)
    reward, kind, p, q = published if match == "published" else strict
    assert (score.kind, score.p, score.q, score.fault) == (kind, p, q, False)
    assert score.reward == pytest.approx(reward, abs=1e-15)
    assert score.t == sum(map(len, unsolved.values()))


def test_all_variants_score_the_same_turn(sandbox):
    text = say("Paris") + say("4478") + say("no")
    rewards = {v: score_turn(environment(TWO), text, variant=v, sandbox=sandbox).reward for v in REWARDS}
    assert rewards == {
        "solve_f1": 1.0, "solve_precision": 2 / 3, "solve_recall": 2.0, "solve_pr": 4 / 3, "solve_f1_stop_penalty": 1.0,
    }  # fmt: skip


def test_what_each_call_solved_and_what_is_left(sandbox):
    start = environment({"say": ["Paris", "Rome"], "give": ["5"]})
    text = say("Oslo") + say("Rome") + render_call(ToolCall("give", {"n": 5}))
    score = score_turn(start, text, sandbox=sandbox)
    assert score.solved == ((), ("Rome",), ("5",))
    assert [result.output for result in score.results] == ["Oslo", "Rome", '{"n": 5}']
    assert score.unsolved_set == {"say": ["Paris"], "give": []}
    assert score.solve_rate == pytest.approx(2 / 3)
    assert start.unsolved_set == {"say": ["Paris", "Rome"], "give": ["5"]}
    assert score.sandbox_ms > 0


def test_an_episode_from_question_to_answer(sandbox):
    state = environment({"say": ["Paris", "Rome", "Oslo"]}, answer="Lima")
    turns, rates = [], []
    for text in (say("Paris"), say("x") + say("Rome"), say("Oslo"), "<think>hm</think>It is Lima."):
        score = score_turn(state, text, sandbox=sandbox)
        state = advance(state, score)
        turns.append(score)
        rates.append(state.solve_rate)
    assert [turn.reward for turn in turns] == pytest.approx([1.0, 2 / 3, 1.0, 1.0])
    assert rates == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert rates[2] == 1.0
    assert [turn.t for turn in turns] == [3, 2, 1, 0]
    roles = [message["role"] for message in state.messages]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "tool", "assistant", "tool", "assistant"]
    assert state.messages[-1] == {"role": "assistant", "content": "It is Lima.", "reasoning_content": "hm"}
    episode = score_episode(3, turns, "Lima", "<think>hm</think>It is Lima.", "strict")
    assert (episode.calls, episode.solved, episode.sub_questions) == (4, 3, 3)
    assert (episode.solve_p, episode.solve_r, episode.solve_f1) == (3 / 4, 1.0, 6 / 7)
    assert episode.answer_correct


@pytest.mark.parametrize(("match", "again"), [("published", 1), ("strict", 0)])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_call_repeated_in_a_later_turn_solves_an_equal_sub_answer_only_in_published(sandbox, match, again, as_text):
    start = environment({"say": ["Paris", "Paris"]})
    state = advance(start, score_turn(start, say("Paris"), match=match, sandbox=sandbox))
    if as_text:  # the format of an OpenAI server's conversation
        function = state.messages[-2]["tool_calls"][0]["function"]
        function["arguments"] = json.dumps(function["arguments"])
    assert score_turn(state, say("Paris"), match=match, sandbox=sandbox).q == again
    assert score_turn(state, say("to Paris"), match=match, sandbox=sandbox).q == 1, "another call earns its own"


def test_a_call_that_failed_before_earns_if_its_repetition_works(sandbox):
    start = environment({"say": ["Paris"]})
    state = advance(start, score_turn(start, say("Paris"), match="published", sandbox=sandbox))
    state.messages[-1]["content"] = "the service is busy"
    state.unsolved_set = {"say": ["Paris"]}
    assert score_turn(state, say("Paris"), match="strict", sandbox=sandbox).q == 1


def test_an_episode_without_calls_has_precision_one():
    episode = score_episode(4, [], None, "", "published")
    assert (episode.solve_p, episode.solve_r, episode.solve_f1, episode.answer_correct) == (1.0, 0.0, 0.0, False)


def test_the_episode_answer_may_not_be_in_thinking_in_strict():
    for match, correct in (("published", True), ("strict", False)):
        assert score_episode(1, [], "Lima", "<think>Lima?</think>I pass.", match).answer_correct is correct


def test_a_sandbox_fault_is_no_model_fault():
    class Broken(ToolSandbox):
        def stream(self, jobs: Iterable[SandboxJob], expected: int | None = None) -> Iterator[list[ToolResult]]:
            for results in super().stream(jobs, expected):
                yield [*results[:-1], ToolResult(results[-1].name, "fault", "sandbox broke", 0.0)]

    with Broken() as broken:
        start = environment(TWO, answer="x")
        score = score_turn(start, say("Paris") + say("4478"), sandbox=broken)
        assert (score.fault, score.reward, score.q) == (True, 0.0, 0)
        assert (score.unsolved_set, score.solve_rate) == (TWO, 0.0)
        assert score_turn(start, "x", sandbox=broken).reward == pytest.approx(1 / 3)


def test_a_batch_of_turns_scores_like_single_turns(sandbox):
    items = [(environment(unsolved, answer, rate), text) for unsolved, answer, rate, text, _, _ in KINDS.values()]
    for match in ("published", "strict"):
        together = score_turns(items, match=match, sandbox=sandbox)
        alone = [score_turn(start, text, match=match, sandbox=sandbox) for start, text in items]
        assert [(s.reward, s.kind, s.p, s.q, s.solved) for s in together] == [
            (s.reward, s.kind, s.p, s.q, s.solved) for s in alone
        ]
    assert score_turns([], sandbox=sandbox) == []


def test_an_unknown_variant_or_match_is_refused(sandbox):
    with pytest.raises(ValueError, match="solve_f1"):
        score_turn(environment(TWO), "x", variant="solve_f2", sandbox=sandbox)
    with pytest.raises(ValueError, match="strict"):
        score_turn(environment(TWO), "x", match="loose", sandbox=sandbox)


@pytest.mark.parametrize("match", ["published", "strict"])
@pytest.mark.parametrize(
    "text",
    [
        render_call(ToolCall("say", {"text": "\ud800"})),
        render_call(ToolCall("give", {"x": float("nan"), "y": float("inf")})),
        render_call(ToolCall("give", {"x": 10**4000})),
        '<tool_call>{"name": "say", "arguments": {"text": ' + "[" * 900 + "]" * 900 + "}}</tool_call>",
        '<tool_call>{"name": "say", "arguments": "[1]"}</tool_call>',
        '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        render_call(ToolCall("say\x00", {"text": "a"})),
        say("x" * 1_000_000),
    ],
)
def test_hostile_arguments_are_the_models_fault(text, match, sandbox):
    score = score_turn(environment(TWO), text, match=match, sandbox=sandbox)
    assert not score.fault
    assert (score.q, score.t) == (0, 2)
    assert score_turn(environment(TWO), say("Paris"), match=match, sandbox=sandbox).q == 1


WORDS = st.sampled_from(["a", "b", "c", "a b", "1", "12", "nothing"])


@given(
    st.lists(st.sampled_from(["a", "b", "1", "12"]), max_size=4),
    st.lists(st.tuples(st.sampled_from(["say", "fail"]), WORDS), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
@example(["a", "b"], [("say", "a"), ("say", "a"), ("say", "a b")], Random(0))
@example(["a", "b"], [("say", "a b"), ("say", "a")], Random(1))
def test_strict_does_not_depend_on_the_order_of_calls_or_sub_answers(sandbox, answers, calls, random):
    text = "".join(say(word, tool) for tool, word in calls)
    first = score_turn(environment({"say": answers, "fail": answers}), text, match="strict", sandbox=sandbox)
    random.shuffle(answers)
    random.shuffle(calls)
    text = "".join(say(word, tool) for tool, word in calls)
    second = score_turn(environment({"say": answers, "fail": answers}), text, match="strict", sandbox=sandbox)
    assert (first.q, first.p, first.reward) == (second.q, second.p, second.reward)


@given(
    st.lists(st.tuples(st.sampled_from(["say", "fail", "nope"]), WORDS), max_size=4), st.sampled_from(sorted(REWARDS))
)
def test_bounds_of_a_turn(sandbox, calls, variant):
    start = environment({"say": ["a", "b", "1"], "fail": ["c"]})
    for match in ("published", "strict"):
        text = "".join(say(word, tool) for tool, word in calls)
        score = score_turn(start, text, variant=variant, match=match, sandbox=sandbox)
        assert 0 <= score.q <= min(max(score.p, 0), score.t)
        assert score.t - score.q == sum(map(len, score.unsolved_set.values()))
        assert 0.0 <= score.solve_rate <= 1.0
        assert (score.solve_rate == 1.0) == (score.q == score.t)
        assert -0.5 <= score.reward <= max(2.0, score.q)


@pytest.mark.parametrize("gold", ["", " ", "?", "..."])
def test_strict_refuses_empty_gold_when_it_is_loaded(gold):
    with pytest.raises(BadInput, match=r"here: key 'unsolved_set.say': expected an answer with a letter or digit"):
        check_gold(environment({"say": ["Paris", gold]}), "here")
    with pytest.raises(BadInput, match=r"here: key 'answer'"):
        check_gold(environment({"say": ["Paris"]}, answer=gold), "here")
    check_gold(environment({"say": ["Paris"]}), "here")


@pytest.mark.skipif(not DATA.exists(), reason="the sample of published environments is not beside this repository")
def test_published_environments_load_and_score_a_turn(sandbox):
    environments = list(read_environments(DATA))
    items = []
    for item in environments:
        check_gold(item, "sample")
        tool = next(name for name, answers in item.unsolved_set.items() if answers)
        items.append((item, render_call(ToolCall(tool, {item.unsolved_set[tool][0]: 1}))))
    published = score_turns(items, match="published", sandbox=sandbox)
    strict = score_turns(items, match="strict", sandbox=sandbox)
    # defect 5: the error message repeats the name of the keyword
    assert [score.q for score in published] == [1] * len(items)
    assert [score.q for score in strict] == [0] * len(items)
    assert not any(score.fault for score in published + strict)
    assert all(json.dumps(advance(item, score).to_record()) for (item, _), score in zip(items, strict, strict=True))


def test_the_cycle_collector_pauses_for_a_large_batch_and_resumes(sandbox, monkeypatch):
    seen = []

    class Watched(ToolSandbox):
        def stream(self, jobs: Iterable[SandboxJob], expected: int | None = None) -> Iterator[list[ToolResult]]:
            for results in sandbox.stream(jobs, expected):
                seen.append(gc.isenabled())
                yield results

    with Watched() as watched:
        start = environment(TWO, answer="x")
        score_turns([(start, say("Paris"))] * 10, sandbox=watched)
        assert seen == [True] * 10
        seen.clear()
        score_turns([(start, say("Paris"))] * PAUSE_ITEMS, sandbox=watched)
        assert seen == [False] * PAUSE_ITEMS and gc.isenabled()
        seen.clear()
        monkeypatch.setattr("reward.scoring.PAUSE_SECONDS", 0.0)
        score_turns([(start, say("Paris"))] * PAUSE_ITEMS, sandbox=watched)
        assert seen[:2] == [False, True] and all(seen[1:])
        gc.disable()
        try:
            score_turns([(start, say("Paris"))] * PAUSE_ITEMS, sandbox=watched)
            assert not gc.isenabled()
        finally:
            gc.enable()


def test_the_cycle_collector_resumes_after_a_failure(monkeypatch):
    monkeypatch.setattr("reward.scoring.parse_turn", lambda *_: 1 / 0)
    with ToolSandbox() as box, pytest.raises(ZeroDivisionError):
        score_turns([(environment(TWO, answer="x"), "x")] * PAUSE_ITEMS, sandbox=box)
    assert gc.isenabled()
