"""The general suite on a small local data folder in the hub's layout: six tasks, one process, one model."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from analysis.general_retention import build
from analysis.run_data.run_folder import Run
from env_construction.environment.jsonl import BadInput, read_jsonl, write_jsonl
from env_construction.sandbox.tool_sandbox import ToolSandbox
from eval import general
from eval.compare import compare
from eval.suites.general_tasks import BENCHMARKS, Problem, find_subsets, load_problems, stock_files, task_configuration
from eval.suites.results import read_rows
from eval.suites.suite import DataMissing
from train.policies.interface import Generation, PolicyRequest
from train.stages.policy_roles import Role, write_roles

SUBJECTS = ("anatomy", "astronomy")
CHOICES = ["a lens", "a mirror", "a prism", "a candle"]


def mmlu(number: int) -> dict[str, Any]:
    return {"question": f"Which thing is number {number}?", "choices": CHOICES, "answer": number % 4, "subject": "made"}


def gsm8k(number: int) -> dict[str, Any]:
    return {
        "question": f"Ann has {number} pens and buys {number} more. How many has she?",
        "answer": f"She has {number} + {number} = {2 * number} pens.\n#### {2 * number}",
    }


def mbpp(number: int) -> dict[str, Any]:
    name = f"add_{number}"
    return {
        "task_id": number,
        "text": f"Write a function that adds {number}.",
        "code": f"def {name}(x):\r\n    return x + {number}",
        "test_list": [f"assert {name}({i}) == {i + number}" for i in range(3)],
        "test_setup_code": "",
        "challenge_test_list": [],
    }


HUMAN_EVAL = {
    "task_id": "HumanEval/7",
    "prompt": 'from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n    """The sum of the numbers."""\n',
    "entry_point": "total",
    "canonical_solution": "    return sum(numbers)\n",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("general")
    for subject in SUBJECTS:
        write_jsonl(folder / "mmlu" / subject / "dev.jsonl", [mmlu(number) for number in range(5)])
        write_jsonl(folder / "mmlu" / subject / "test.jsonl", [mmlu(number) for number in range(5, 9)])
    write_jsonl(
        folder / "bbh" / "boolean_expressions" / "test.jsonl",
        [{"input": "not ( True ) is", "target": "False"}, {"input": "True or False is", "target": "True"}],
    )
    write_jsonl(
        folder / "bbh" / "date_understanding" / "test.jsonl",
        [{"input": "Today is 1 May. Tomorrow?\nOptions:\n(A) 2 May\n(B) 3 May", "target": "(A)"}],
    )
    write_jsonl(folder / "gsm8k" / "train.jsonl", [gsm8k(number) for number in range(2, 8)])
    write_jsonl(folder / "gsm8k" / "test.jsonl", [gsm8k(number) for number in range(30, 33)])
    write_jsonl(
        folder / "math" / "algebra" / "test.jsonl",
        [
            {
                "problem": "Solve $2x = 1$.",
                "solution": "So $x = \\boxed{\\frac{1}{2}}$.",
                "level": "Level 1",
                "type": "Algebra",
            },
            {"problem": "What is $(a)^2$?", "solution": "It is $\\boxed{a^2}$.", "level": "Level 1", "type": "Algebra"},
        ],
    )
    write_jsonl(folder / "humaneval" / "test.jsonl", [HUMAN_EVAL])
    write_jsonl(folder / "mbpp" / "prompt.jsonl", [mbpp(number) for number in range(1, 5)])
    write_jsonl(folder / "mbpp" / "test.jsonl", [mbpp(number) for number in range(11, 13)])
    return folder


@pytest.fixture(scope="module")
def problems(data: Path) -> dict[str, Problem]:
    return {problem.id: problem for problem in load_problems(find_subsets(str(data), list(BENCHMARKS)), None)}


class Said:
    """A policy that returns given texts, and counts its requests."""

    name = "said"

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts
        self.asked: list[str] = []

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        self.asked += [request.case_id for request in requests]
        return [Generation(self.texts.get(r.case_id, "I do not know."), 4, 9, truncated=False) for r in requests]


def measure(data: Path, out: Path, *flags: object, policy: Any = None, spec: str = "oracle") -> dict[str, Any]:
    arguments = general.parser().parse_args(
        ["--policy", spec, "--data", str(data), "--out", str(out), *map(str, flags)]
    )
    return general.run(arguments, policy)


def test_six_tasks_in_one_run_and_the_reference_answers_score_full_marks(data: Path, tmp_path: Path) -> None:
    summary = measure(data, tmp_path / "out")
    assert list(summary["by_task"]) == sorted(BENCHMARKS)
    for table in summary["by_task"].values():
        assert table["correct"]["value"] == table["strict"]["value"] == 1.0
    assert summary["metrics"]["mean_of_tasks"]["value"] == pytest.approx(1.0)
    rows = read_rows(tmp_path / "out")
    assert len(rows) == 8 + 3 + 3 + 2 + 1 + 2
    assert {row["id"] for row in rows} >= {"mmlu/anatomy/0", "gsm8k/2", "humaneval/7", "mbpp/11", "math/algebra/1"}
    # the authors' grader requires "ANSWER: B", not "B"
    assert {row["task"] for row in rows if row["published"]} == set(BENCHMARKS) - {"mmlu"}
    assert summary["coverage"]["mmlu"] == {"n": 8, "of": 14042}


def test_a_tiny_checkpoint_is_measured_in_one_load(data: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    summary = measure(data, tmp_path / "out", "--max-new-tokens", 8, spec=f"hf:{tiny_checkpoint}")
    assert summary["rows"] == 19 and summary["faults"] == 0
    rows = read_rows(tmp_path / "out")
    assert all(row["outcome"] == "ended" for row in rows)
    assert all(row["completion_tokens"] <= 8 for row in rows)
    replayed = measure(data, tmp_path / "again", spec=f"replay:{tmp_path / 'out' / 'results.jsonl'}")
    assert replayed["by_task"]["mmlu"]["correct"] == summary["by_task"]["mmlu"]["correct"]


def test_rows_are_what_comparison_and_retention_expect(data: Path, tmp_path: Path) -> None:
    measure(data, tmp_path / "eval" / "grpo" / "general")
    measure(data, tmp_path / "eval" / "start" / "general", policy=Said({"gsm8k/0": "#### 60"}))
    for policy in ("start", "grpo"):  # retention considers only policies measured on the run's own environments
        write_jsonl(tmp_path / "eval" / policy / "results.jsonl", [{"id": "x", "trial": 0}])
    start = Role("start", "tiny", "plain")
    write_roles(tmp_path, {"start": start, "grpo": Role("trained", "tiny", "plain", start="start", algorithm="grpo")})
    before, after = (read_rows(tmp_path / "eval" / name / "general") for name in ("start", "grpo"))
    found = compare(before, after)
    assert found["cases"] == 19
    assert found["metrics"]["correct"]["a"] == pytest.approx(1 / 19) and found["metrics"]["correct"]["b"] == 1.0
    assert found["metrics"]["correct"]["test"] == "mcnemar"
    [artifact] = build(Run.open(tmp_path))
    assert [row["task"] for row in artifact.rows] == ["mmlu", "bbh", "gsm8k", "math", "humaneval", "mbpp", "all"]
    assert artifact.rows[2]["difference"] == pytest.approx(100 * 2 / 3)


def test_a_killed_run_resumes_with_the_remaining_problems(data: Path, tmp_path: Path) -> None:
    measure(data, tmp_path / "out", "--tasks", "gsm8k", "mbpp", policy=Said({"gsm8k/1": "62"}))
    whole = (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    (tmp_path / "out" / "results.jsonl").write_text("".join(lines[:3]) + lines[3][:20], encoding="utf-8")
    policy = Said({})
    summary = measure(data, tmp_path / "out", "--tasks", "gsm8k", "mbpp", policy=policy)
    assert sorted(policy.asked) == ["mbpp/11", "mbpp/12"]
    assert summary["by_task"]["gsm8k"]["correct"]["value"] == pytest.approx(1 / 3)
    with pytest.raises(BadInput, match="another configuration"):
        measure(data, tmp_path / "out", "--tasks", "gsm8k", policy=policy)


def test_a_later_call_may_raise_the_limit(data: Path, tmp_path: Path) -> None:
    first = measure(data, tmp_path / "out", "--limit", 1)
    assert first["rows"] == 6
    again = measure(data, tmp_path / "out", "--limit", 3)
    assert again["rows"] == 3 + 3 + 3 + 2 + 1 + 2
    assert first["protocol"]["settings"] == again["protocol"]["settings"], "so the two can be compared"


def test_limit_is_per_benchmark_and_spread_over_its_subsets(data: Path, tmp_path: Path) -> None:
    measure(data, tmp_path / "out", "--limit", 3)
    ids = [row["id"] for row in read_rows(tmp_path / "out")]
    assert ids[:6] == [
        "mmlu/anatomy/0",
        "mmlu/anatomy/1",
        "mmlu/astronomy/0",
        "bbh/boolean_expressions/0",
        "bbh/boolean_expressions/1",
        "bbh/date_understanding/0",
    ]
    assert len(ids) == 3 + 3 + 3 + 2 + 1 + 2


def test_missing_data_are_named_with_their_source(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "bbh").symlink_to(data / "bbh")
    with pytest.raises(DataMissing) as caught:
        measure(tmp_path / "part", tmp_path / "out", "--tasks", "bbh", "mmlu", "mbpp")
    text = str(caught.value)
    assert "mmlu: dev.jsonl and test.jsonl" in text and "cais/mmlu" in text
    assert "mbpp: prompt.jsonl and test.jsonl" in text and "google-research-datasets/mbpp" in text
    assert "bbh:" not in text and "\n" not in text
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataMissing, match=r"openai/gsm8k cannot be loaded .*--data"):
        measure(Path("hub"), tmp_path / "out", "--tasks", "gsm8k")
    assert not (tmp_path / "out").exists()


def test_malformed_data_are_bad_input(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "gsm8k" / "train.jsonl", [{"q": "?"}] * 5)
    write_jsonl(tmp_path / "gsm8k" / "test.jsonl", [{"q": "?"}])
    with pytest.raises(BadInput, match=r"gsm8k/(train|test)\.jsonl"):
        load_problems(find_subsets(str(tmp_path), ["gsm8k"]), None)


def test_the_command_line(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    flags = ["--policy", "random", "--data", str(data), "--out", str(tmp_path / "out"), "--tasks", "mmlu"]
    monkeypatch.setattr(sys, "argv", ["general", *flags])
    assert general.main() == 0
    assert "mmlu: 8 of the 14042 published problems" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["suite"] == "general"


def test_examples_are_turns_before_the_question(problems: dict[str, Problem]) -> None:
    def shape(case: str) -> str:
        return "".join(message["role"][0] for message in problems[case].messages)

    assert shape("mmlu/anatomy/0") == "s" + "ua" * 5 + "u"
    assert shape("bbh/date_understanding/0") == "s" + "ua" * 3 + "u"
    assert shape("gsm8k/0") == "ua" * 5 + "u"
    assert shape("math/algebra/0") == "u" and "\\boxed{}" in problems["math/algebra/0"].messages[0]["content"]
    assert shape("humaneval/7") == "u"
    assert shape("mbpp/11") == "ua" * 3 + "u"
    assert problems["gsm8k/0"].messages[1]["content"].endswith("#### 4")
    assert problems["mbpp/12"].messages[1]["content"] == "```python\ndef add_1(x):\r\n    return x + 1\n```"
    assert "assert add_12(2) == 14" in problems["mbpp/12"].messages[-1]["content"]


def test_all_stock_tasks_exist_with_unchanged_prompts(data: Path) -> None:
    assert {name: len(stock_files(item)) for name, item in BENCHMARKS.items()} == {
        "mmlu": 57,
        "bbh": 27,
        "gsm8k": 1,
        "math": 7,
        "humaneval": 1,
        "mbpp": 1,
    }
    [subset] = find_subsets("hub", ["gsm8k"])
    configuration = task_configuration(subset)
    assert configuration["include"].endswith("gsm8k.yaml") and "doc_to_text" not in configuration
    assert configuration["dataset_path"] == "openai/gsm8k" and configuration["dataset_name"] == "main"


GRADES = [
    # case, text, correct, strict, published, failure
    ("mmlu/anatomy/0", "B", True, True, False, ""),
    ("mmlu/anatomy/0", "B\nbecause it shines.", True, True, False, ""),
    ("mmlu/anatomy/0", "The answer is (B).", True, False, False, ""),
    ("mmlu/anatomy/0", "ANSWER: B", True, False, True, ""),
    ("mmlu/anatomy/0", "b", True, True, False, ""),
    ("mmlu/anatomy/0", "b. a mirror", True, False, False, ""),
    ("mmlu/anatomy/0", "C", False, False, False, "wrong"),
    ("mmlu/anatomy/0", "It shines.", False, False, False, "no_answer"),
    ("mmlu/anatomy/0", "<think>\nC or D? D.\n</think>\n\nB", True, True, False, ""),
    ("mmlu/anatomy/0", "<think>\nClearly the answer is (B).", False, False, False, "unclosed_thinking"),
    ("bbh/boolean_expressions/0", "not True is False. So the answer is False.", True, True, True, ""),
    ("bbh/boolean_expressions/0", "not True is False.\n\n**False**", True, False, False, ""),
    ("bbh/boolean_expressions/0", "It is not False. So the answer is True.", False, False, False, "wrong"),
    ("bbh/boolean_expressions/0", "<think>False</think>So the answer is True.", False, False, False, "wrong"),
    ("bbh/date_understanding/0", "So the answer is (A).", True, True, True, ""),
    ("bbh/date_understanding/0", "\\boxed{A}", True, False, True, ""),
    ("gsm8k/0", "30 + 30 = 60\n#### 60", True, True, True, ""),
    ("gsm8k/0", "She has **60** pens.", True, False, True, ""),
    ("gsm8k/0", "#### 61, not 60", False, False, True, "wrong"),
    ("gsm8k/0", "\\boxed{60}", True, False, True, ""),
    ("gsm8k/0", "#### 60\n\nQuestion: and Bob?\n#### 5", True, True, True, ""),
    ("gsm8k/0", "The answer is 30 + 30 = 60.", True, False, True, ""),
    ("gsm8k/0", "The answer is \u221260.", False, False, True, "wrong"),
    ("gsm8k/0", "She has 1,600 pens", False, False, False, "wrong"),
    ("gsm8k/0", "<think>60", False, False, True, "unclosed_thinking"),
    ("gsm8k/0", "", False, False, False, "no_answer"),
    ("math/algebra/0", "$x = \\boxed{\\frac{1}{2}}$", True, True, True, ""),
    ("math/algebra/0", "So $\\boxed{0.5}$.", True, True, True, ""),
    ("math/algebra/0", "The answer is $\\frac12$.", True, False, False, ""),
    ("math/algebra/0", "\\boxed{2} wait, \\boxed{\\frac{1}{2}}", True, True, False, ""),
    ("math/algebra/1", "\\boxed{a^3}", False, False, False, "wrong"),
    ("humaneval/7", "```python\ndef total(numbers: List[int]):\n    return sum(numbers)\n```", True, True, True, ""),
    ("humaneval/7", "    return sum(numbers)", True, False, False, ""),
    (
        "humaneval/7",
        "```python\ntotal([1])\n```\n```python\ndef total(n):\n    return sum(n)\n```",
        True,
        False,
        False,
        "",
    ),
    ("humaneval/7", "```python\ndef total(n):\n    return 3\n```", False, False, False, "wrong"),
    ("humaneval/7", "<think>```python\ndef total(n):\n    return sum(n)\n```", False, False, True, "unclosed_thinking"),
    ("mbpp/11", "```python\ndef add_11(x):\n    return x + 11\n```", True, True, True, ""),
    ("mbpp/11", "def add_11(x):\n    return x + 11", True, False, True, ""),
    (
        "mbpp/11",
        "```python\ndef add_11(x):\n    return x + 11\n```\nnot\n```python\ndef add_11(x):\n    return x\n```",
        True,
        True,
        True,
        "",
    ),
    ("mbpp/11", "", False, False, False, "no_answer"),
]


@pytest.fixture(scope="module")
def box() -> Iterator[ToolSandbox]:
    with ToolSandbox(workers=1, timeout_s=2) as opened:
        yield opened


@pytest.mark.parametrize(("case", "text", "correct", "strict", "published", "failure"), GRADES)
def test_grades(
    problems: dict[str, Problem],
    box: ToolSandbox,
    case: str,
    text: str,
    correct: bool,
    strict: bool,
    published: bool,
    failure: str,
) -> None:
    found = general.grade(problems[case], text, box)
    assert (found.correct, found.strict, found.published, found.failure) == (correct, strict, published, failure)


PIECES = st.sampled_from(
    [
        "B", "b", "(B)", "C", "\n", "\n\n", " ", ". ", "The answer is ", "So the answer is ", "ANSWER: ",
        "#### ", "60", "-60",
        "\u221260", "6{,}0",
        "1,060", "False", "True", "(A)", "(B).", "False.", "60.", "= ", "30 + 30 ", "\\boxed{60}", "\\boxed{B}",
        "Question: ",
        "Q: ", "It's ", "<think>",
        "</think>", "\\boxed{\\frac{1}{2}}", "$0.5$", "\\boxed{2}", "a^2", "\\boxed{a^2}", "not ", "$", "%",
        "<|im_end|>",
    ]
)  # fmt: skip


@given(
    st.sampled_from(
        ["mmlu/anatomy/0", "bbh/boolean_expressions/0", "bbh/date_understanding/0", "gsm8k/0", "math/algebra/0"]
    ),
    st.lists(PIECES, max_size=7).map("".join),
)
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_strict_answers_are_correct(problems: dict[str, Problem], box: ToolSandbox, case: str, text: str) -> None:
    found = general.grade(problems[case], text, box)
    assert found.correct or not found.strict
    assert found.correct == (found.failure == "")
    if found.strict and case != "math/algebra/0":  # the lenient rules find most of these without the strict rule
        problem = problems[case]
        agrees = general._answer(problem.benchmark, general.gold_answer(problem), text)[1]
        event(f"the lenient rule agrees: {agrees}")


BLOCKS = st.sampled_from(
    [
        "```python\ndef add_11(x):\n    return x + 11\n```\n",
        "```python\ndef add_11(x):\n    return x\n```\n",
        "```\nprint(1)\n```\n",
        "def add_11(x):\n    return x + 11\n",
        "Like this:\n",
        "```python\n",
    ]
)


@given(st.lists(BLOCKS, max_size=4).map("".join))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_strict_programs_are_correct(problems: dict[str, Problem], box: ToolSandbox, text: str) -> None:
    found = general.grade(problems["mbpp/11"], text, box)
    assert found.correct or not found.strict


@pytest.fixture(scope="module")
def published_file(data: Path) -> Path:
    """A synthetic file in the format that the authors' grader reads."""

    def record(source: str, answer: str, **more: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": f"A question of {source}, answer {answer}?"}]
        return {"messages": messages, "data_source": f"General/{source}", "answer": answer, **more}

    path = data / "General.jsonl"
    write_jsonl(
        path,
        [
            record("MMLU", "B"),
            record("BBH", "(A)", form="mcp"),
            record("BBH", "False", form="free"),
            record("GSM8K", "18"),
            record("MATH", "\\frac{1}{2}"),
            record("HumanEval", "HumanEval/7"),
            record("MBPP", "assert add(1) == 2\nassert add(2) == 3"),
            record("MMLU", "C"),
        ],
    )
    return path


def test_the_authors_file_uses_their_prompts_and_graders(published_file: Path, tmp_path: Path) -> None:
    program = "```python\ndef add(x):\n    return x + 1\n```"
    said = Said({"mmlu/published/1": "ANSWER: B", "mmlu/published/8": "It's C.", "mbpp/published/7": program})
    summary = measure(published_file, tmp_path / "out", policy=said)
    rows = {row["id"]: row for row in read_rows(tmp_path / "out")}
    assert len(rows) == 8 and "humaneval/7" in rows
    first = rows["mmlu/published/1"]
    assert first["transcript"][0]["content"] == "A question of MMLU, answer B?"
    assert (first["correct"], first["strict"], first["published"]) == (True, True, True)
    second = rows["mmlu/published/8"]
    assert (second["correct"], second["strict"], second["published"]) == (True, False, False)
    assert rows["mbpp/published/7"]["published"] and rows["mbpp/published/7"]["strict"]
    assert summary["by_task"]["mmlu"]["published"]["value"] == 0.5
    oracle = measure(published_file, tmp_path / "gold", "--tasks", "mmlu", "bbh", "gsm8k", "math", "humaneval")
    assert oracle["metrics"]["correct"]["value"] == oracle["metrics"]["published"]["value"] == 1.0
    with pytest.raises(BadInput, match="no reference program"):
        measure(published_file, tmp_path / "none", "--tasks", "mbpp")


def test_missing_problems_of_the_authors_file_are_named(published_file: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "General.jsonl"
    lonely.write_bytes(published_file.read_bytes())
    with pytest.raises(DataMissing, match=r"humaneval: test\.jsonl"):
        measure(lonely, tmp_path / "out")
    with pytest.raises(DataMissing, match=r"eval\.download general"):
        measure(tmp_path / "none.jsonl", tmp_path / "out")
    write_jsonl(lonely, [{"messages": [], "answer": "B", "data_source": "General/MMLU"}])
    with pytest.raises(BadInput, match=r"General\.jsonl:1: messages"):
        measure(lonely, tmp_path / "out", "--tasks", "mmlu")
    write_jsonl(lonely, [{"messages": [{"role": "user", "content": "?"}], "answer": "B", "data_source": "General/ARC"}])
    with pytest.raises(BadInput, match=r"General\.jsonl:1: data_source 'General/ARC'"):
        measure(lonely, tmp_path / "out", "--tasks", "mmlu")


def test_a_turn_starts_inside_thinking_that_the_prompt_opens(
    problems: dict[str, Problem], box: ToolSandbox, tiny_checkpoint: Path
) -> None:
    inside = general.grade(problems["mmlu/anatomy/0"], "B looks right", box, thinking_opened=True)
    assert inside.failure == "unclosed_thinking"
    assert general.grade(problems["mmlu/anatomy/0"], "C? no</think>B", box, thinking_opened=True).correct

    from train.policies.prompts import load_tokenizer

    policy = Said({})
    assert not general.thinking_is_opened(policy)
    policy.tokenizer = load_tokenizer(tiny_checkpoint)  # type: ignore[attr-defined]
    assert not general.thinking_is_opened(policy)
    policy.tokenizer.chat_template += "{{ '<think>\\n' if enable_thinking }}"  # type: ignore[attr-defined]
    assert not general.thinking_is_opened(policy)
    policy.thinking = True  # type: ignore[attr-defined]
    assert general.thinking_is_opened(policy)


def test_hostile_answers_end_in_a_scored_row(data: Path, tmp_path: Path) -> None:
    texts = {
        "mmlu/anatomy/0": "\\boxed{" * 140_000,
        "mmlu/anatomy/1": "<tool_call>\n{}\n</tool_call>",
        "gsm8k/0": "9" * 1_000_000,
        "gsm8k/1": "answer: " * 100_000,
        "math/algebra/0": "\\frac{" * 100_000,
        "bbh/boolean_expressions/0": "\ud800",
        "humaneval/7": "```python\nimport os\nos._exit(0)\n```",
        "mbpp/11": "```python\nprint('x' * 10**7)\nraise SystemExit\n```",
    }
    summary = measure(data, tmp_path / "out", policy=Said(texts))
    assert summary["faults"] == 0 and summary["rows"] == 19
    rows = {record["id"]: record for _, record in read_jsonl(tmp_path / "out" / "results.jsonl")}
    assert not any(rows[case]["correct"] for case in texts)
