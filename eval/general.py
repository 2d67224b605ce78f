"""General benchmarks (MMLU, BBH, GSM8K, MATH, HumanEval, MBPP): does tool training cost accuracy elsewhere?

Inputs: a policy, and the benchmarks from the hub or a folder (prompts, examples, layout: eval/suites/general_tasks.py).
Outputs, in --out: `results.jsonl` (one row per problem; id = benchmark/subset/number), `summary.json`, `faults.jsonl`,
`configuration.json`. Resumable by (id, trial). All benchmarks run in one process, on one loaded model, in shared
batches.

Columns of a row:
- `correct`: the answer that the text arrives at, found as a human reader would find it (eval/graders/answer_rules.py,
  eval/graders/code_answers.py). Every `strict` answer is also `correct`.
- `strict`: only an answer in the form that the benchmark asks for. MMLU (the first line is the letter), BBH ("the
  answer is X.") and GSM8K (`#### 18`) use lm-eval's own filter and metric. MATH uses the last `\\boxed{}`; HumanEval
  and MBPP use the first fenced block.
- `published`: the verdict of the FTRL authors' grader for that benchmark (eval/graders/published_general.py). It reads
  the forms that the authors' prompts ask for, such as "ANSWER: X". Other prompts get low scores for their form, so
  compare it with Table 2 only on the authors' file.

Thinking is removed before `correct` and `strict`. Unclosed thinking is an empty answer (failure `unclosed_thinking`). A
thinking model needs room: pass `--max-new-tokens 8192` with `--thinking`.

The authors' own problems and prompts are in one file, `General.jsonl` (`python -m eval.download general`); select it
with `--data data/ftrl/General.jsonl`. `strict` is then their grader without the thinking (for programs the first block,
as elsewhere). Its HumanEval records contain only the problem's name, so `humaneval/test.jsonl` must be in the same
folder.

Model-written programs run in the sandbox, never in this process. `mean_of_tasks` in the summary is the plain mean of
the benchmarks' accuracies. `metrics` are over all problems, half of which are MMLU.

Example:
    python -m eval.general --policy hf:outputs/cpu/start --out outputs/cpu/eval/start/general --limit 100
    python -m eval.general --policy hf:outputs/cpu/start --tasks made --data outputs/made --split dev \\
        --out outputs/cpu/eval/start/skills
    python -m eval.general --policy vllm:Qwen/Qwen3-8B --thinking --max-new-tokens 8192 --data data/general \\
        --out outputs/qwen3/general
    python -m eval.general --policy vllm:Qwen/Qwen3-8B --data data/ftrl/General.jsonl \\
        --tasks mmlu bbh gsm8k math mbpp --out outputs/qwen3/published

Source: paper/README.md, "Evaluation" (general) and claim 4.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, run_main
from env_construction.sandbox.tool_sandbox import SandboxFault, ToolSandbox, shared_sandbox
from eval.graders import code_answers
from eval.graders.answer_rules import (
    as_number,
    choice_letter,
    final_expression,
    final_number,
    last_boxed,
    same_short_answer,
    short_answer,
    split_thinking,
)
from eval.graders.math_grader import same_expression
from eval.graders.published_general import (
    graded_text,
    is_option,
    published_correct,
    published_human_eval,
    published_mbpp,
)
from eval.suites.games import GameFault, OnRow, Play, SuiteGame, conversation, game_player
from eval.suites.general_tasks import (
    BENCHMARKS,
    HUB,
    MADE_TASKS,
    TASKS,
    Problem,
    find_subsets,
    load_problems,
    read_published_problems,
)
from eval.suites.results import GroupedMean, Metric
from eval.suites.suite import run_suite, suite_parser
from train.policies.interface import Generation, Policy
from train.policies.prompts import render_prompt

SUITE = "general"
MADE = "made"
HEADLINES = ("mean_of_tasks",)


def metrics(tasks: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics of a summary.

    The mean over tasks is partial unless all six benchmarks, or all six made skills, were run.
    """
    of = tuple(MADE_TASKS if set(tasks) <= set(MADE_TASKS) else BENCHMARKS)
    mean = GroupedMean("mean_of_tasks", "correct", "task", of=of)
    return ("correct", "strict", "published", mean, "completion_tokens")


METRICS = metrics(tuple(BENCHMARKS))


@dataclass(frozen=True)
class Grade:
    """`answer`: what the text answers, "" if nothing was found; `failure`: why it does not count, "" if it does."""

    correct: bool
    strict: bool
    published: bool
    answer: str
    failure: str


def gold_answer(problem: Problem) -> str:
    """The gold answer as a person would write it: a letter, a number or an expression.

    For a program: the names of the tested functions.
    """
    if problem.kind == "gsm8k":
        return problem.target.rpartition("####")[2].strip()
    if problem.kind == "math":
        return last_boxed(str(problem.doc.get("solution", ""))) or problem.target
    if problem.kind in ("humaneval", "mbpp"):
        return ", ".join(_program(problem).names)
    return problem.target.strip()


def _program(problem: Problem) -> code_answers.Problem:
    read = code_answers.human_eval_problem if problem.kind == "humaneval" else code_answers.mbpp_problem
    return read(problem.doc)


def grade(
    problem: Problem, raw: str, sandbox: ToolSandbox, thinking_opened: bool = False, thinking: bool = False
) -> Grade:
    """Grade a model's text. Raises SandboxFault if a program could not run for reasons outside its control."""
    text, unclosed = split_thinking(raw, thinking_opened)
    published_text = graded_text(raw, thinking)
    if problem.kind in ("humaneval", "mbpp"):
        program = _program(problem)
        judge = published_human_eval if problem.kind == "humaneval" else published_mbpp
        published = judge(program, published_text, sandbox)
        if unclosed:
            return Grade(False, False, published, "", "unclosed_thinking")
        return _grade_program(program, text, published, sandbox)
    gold = gold_answer(problem)
    wanted = gold.replace(",", "") if problem.kind == "gsm8k" else gold  # the authors' data omit thousands separators
    published = published_correct(problem.kind, wanted, published_text)
    if unclosed:
        return Grade(False, False, published, "", "unclosed_thinking")
    strict = published_correct(problem.kind, wanted, text) if problem.published else problem.stock_score(text)
    if strict is None:
        boxed = last_boxed(text)
        strict = boxed is not None and same_expression(gold, boxed)
    answer, correct = (gold, True) if strict else _answer(problem.kind, gold, text)
    return Grade(correct, strict, published, answer or "", "" if correct else "wrong" if answer else "no_answer")


def _answer(benchmark: str, gold: str, text: str) -> tuple[str | None, bool]:
    """`(the extracted answer, whether it is correct)`."""
    if benchmark == "mmlu":
        letter = choice_letter(text)
        return letter, letter == gold
    if benchmark == "gsm8k" or (benchmark == "bbh" and as_number(gold) is not None):
        number = final_number(text)
        return None if number is None else str(number), number is not None and number == as_number(gold)
    if benchmark == "math":
        expression = final_expression(text)
        return expression, expression is not None and same_expression(gold, expression)
    if is_option(gold):
        letter = choice_letter(text, "ABCDEFGHIJKLMNOPQR")
        return letter, letter == gold[1]
    answer = short_answer(text)
    return answer, answer is not None and same_short_answer(gold, answer)


def _grade_program(program: code_answers.Problem, text: str, published: bool, sandbox: ToolSandbox) -> Grade:
    """`correct` if the extracted block passes, or if the first block passes, which is what `strict` tests."""
    codes = [code_answers.extract_code(text, program, strict) for strict in (False, True)]
    outcomes: dict[str, tuple[bool, str]] = {}
    for code in codes:
        if code is not None and code not in outcomes:
            outcomes[code] = code_answers.passes(code_answers.program_of(code, program), program, sandbox)
    strict = codes[1] is not None and outcomes[codes[1]][0]
    chosen = codes[1] if strict else codes[0]
    correct, happened = outcomes[chosen] if chosen is not None else (False, "no_answer")
    failure = "" if correct else "wrong" if happened in ("ok", "error") else happened
    return Grade(correct, strict, published, chosen or "", failure)


class ProblemGame(SuiteGame):
    """One active problem: one turn."""

    def __init__(
        self, problem: Problem, trial: int, sandbox: ToolSandbox, thinking_opened: bool, thinking: bool
    ) -> None:
        super().__init__(problem.id, trial, conversation(problem.id, problem.messages))
        self.problem, self.sandbox = problem, sandbox
        self.thinking_opened, self.thinking = thinking_opened, thinking
        self.grade = Grade(False, False, False, "", "too_long")
        self.said: list[dict[str, str]] = []

    def hear(self, generation: Generation) -> None:
        """Grade the turn. Raises GameFault if the sandbox failed."""
        try:
            self.grade = grade(self.problem, generation.text, self.sandbox, self.thinking_opened, self.thinking)
        except SandboxFault as error:
            raise GameFault(f"sandbox: {error}") from None
        if generation.truncated and self.grade.failure == "no_answer":
            self.grade = Grade(False, self.grade.strict, self.grade.published, "", "truncated")
        self.said = [{"role": "assistant", "content": generation.text}]
        self.done = True

    def row(self, outcome: str) -> dict[str, Any]:
        return {
            "task": self.problem.benchmark,
            "subset": self.problem.subset,
            "failure": self.grade.failure,
            "correct": self.grade.correct,
            "strict": self.grade.strict,
            "published": self.grade.published,
            "answer": self.grade.answer[:2000],
            "gold": gold_answer(self.problem),
            "transcript": [*self.state.messages, *self.said],
        }

    def gold_turn(self) -> str:
        """The reference answer, in the form that the benchmark asks for."""
        doc, kind = self.problem.doc, self.problem.kind
        if self.problem.published and kind != "humaneval":
            return self._published_gold_turn()
        if kind == "humaneval":
            return f"```python\n{doc['prompt']}{doc['canonical_solution']}\n```"
        if kind == "bbh":
            return f"So the answer is {self.problem.target}."
        return str(doc["solution"]) if kind == "math" else self.problem.target

    def _published_gold_turn(self) -> str:
        said = {"mmlu": "ANSWER: {}", "bbh": "So the answer is {}.", "gsm8k": "It is {}", "math": "\\boxed{{{}}}"}
        if self.problem.benchmark not in said:
            raise BadInput(f"{self.id}: the authors' file has no reference program, so the oracle cannot play it")
        return said[self.problem.benchmark].format(self.problem.target)


def thinking_is_opened(policy: Policy) -> bool:
    """Whether the policy's template ends a prompt with an open thinking block, so that a turn starts inside it."""
    tokenizer, thinking = getattr(policy, "tokenizer", None), bool(getattr(policy, "thinking", False))
    if tokenizer is None:
        return False
    return render_prompt(tokenizer, [{"role": "user", "content": "?"}], [], thinking).rstrip().endswith("<think>")


def _wording_sha256(problems: Sequence[Problem]) -> str:
    """One hash over the first problem of each task: its prompt with instructions and examples, and its answer.

    It does not depend on --limit, so that a later call may raise the limit. The data files have hashes of their own.
    """
    first = {problem.benchmark: problem for problem in reversed(problems)}
    said = [[name, first[name].messages, gold_answer(first[name])] for name in sorted(first)]
    return hashlib.sha256(json.dumps(said).encode("utf-8")).hexdigest()


def parser() -> argparse.ArgumentParser:
    found = suite_parser(__doc__, "python -m eval.general", data=HUB)
    found.add_argument(
        "--tasks",
        nargs="+",
        choices=[*TASKS, MADE],
        default=list(BENCHMARKS),
        help="default: the six benchmarks; made: the six made skills, which need --data (see eval.made_skills)",
    )
    found.add_argument("--split", choices=("dev", "test"), default="test", help="split of the made skills")
    return found


def run(arguments: argparse.Namespace, policy: Policy | None = None) -> dict[str, Any]:
    """Play what is left and return the summary. Raises DataMissing or BadInput."""
    if arguments.limit is not None and arguments.limit < 1:
        raise BadInput(f"--limit: expected at least 1, got {arguments.limit}")
    tasks = [name for name in TASKS if name in arguments.tasks or (name in MADE_TASKS and MADE in arguments.tasks)]
    if arguments.data.endswith(".jsonl"):
        found, files = read_published_problems(Path(arguments.data), tasks, arguments.limit)
    else:
        subsets = find_subsets(arguments.data, tasks, arguments.split)
        found = load_problems(subsets, arguments.limit)
        files = sorted({path for subset in subsets for paths in subset.files.values() for path in paths})
    problems = {problem.id: problem for problem in found}
    counts = {name: sum(problem.benchmark == name for problem in problems.values()) for name in TASKS}
    coverage = {name: {"n": n, "of": TASKS[name].size or n} for name, n in counts.items() if n}
    sandbox = shared_sandbox()

    def play(loaded: Policy, plays: Sequence[Play], on_row: OnRow) -> None:
        opened = thinking_is_opened(loaded)

        def make_game(case_id: str, trial: int) -> ProblemGame:
            return ProblemGame(problems[case_id], trial, sandbox, opened, arguments.thinking)

        game_player(arguments, make_game, max_turns=1)(loaded, plays, on_row)

    summary = run_suite(
        arguments,
        SUITE,
        case_ids=list(problems),
        play=play,
        metrics=metrics(tasks),
        data_files=files,
        groups={"by_task": "task", "by_subset": "subset"},
        settings={
            "tasks": tasks,
            "wording_sha256": _wording_sha256(list(problems.values())),
        }
        | ({"split": arguments.split} if set(tasks) & set(MADE_TASKS) else {}),
        shown=("correct", "strict", "published", "mean_of_tasks"),
        policy=policy,
        extra=lambda rows: {"coverage": coverage},
    )
    for name, count in coverage.items():
        if count["n"] < count["of"]:
            print(f"{name}: {count['n']} of the {count['of']} published problems")
    return summary


def main() -> int:
    run(parser().parse_args())
    return 0


if __name__ == "__main__":
    run_main(main)
