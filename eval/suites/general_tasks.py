"""The six general benchmarks and the six made skills as lm-eval tasks: task, few-shot examples, data, problems.

MMLU, BBH and GSM8K are lm-eval's own tasks (`mmlu_generative`, `bbh_cot_fewshot`, `gsm8k`) with unchanged prompts,
examples, filters and metrics. A generated task file includes the stock file and overrides the number of examples and,
offline, the data location. MATH uses lm-eval's task with a prompt that asks for `\\boxed{}` (the stock prompt asks for
a bare answer and shows no reasoning). HumanEval and MBPP use this project's prompts and no lm-eval metric, for two
reasons. lm-eval's metric comes from the hub and runs model-written code in the grader's process. Its tasks also prefill
the model's answer (`gen_prefix`), which disables thinking. All six are generative, because likelihoods of answer
letters do not measure a model that thinks.

| benchmark | lm-eval task | examples | from |
| mmlu | mmlu_<subject>_generative, 57 | 5 | first of split `dev` |
| bbh | bbh_cot_fewshot_<task>, 27 | 3, with reasoning | the task's own |
| gsm8k | gsm8k | 5, with reasoning and `####` | first of split `train` |
| math | hendrycks_math_<subject>, 7 | 0 | |
| humaneval | own prompt | 0 | |
| mbpp | own prompt | 3 | first of split `prompt` |

The six made skills (`made_lookup` ...: train/teaching/made_skills.py, written by `python -m eval.made_skills`) stand in
for the six benchmarks if those are not available. Their records have the same fields. Each is asked and graded by the
task of the benchmark that it stands for, with its own prompt and no examples. Examples are turns of the conversation
(`fewshot_as_multiturn`), rendered by the model's own chat template.

Data: offline, DIR/<benchmark>/<subset>/<split>*.jsonl (or .json, .parquet), with the hub's field names. The subset's
folder may be omitted if there is only one. A copy of the hub's repository has this layout. Without a folder, the data
come from the hub.

Source: lm-evaluation-harness 0.4.13, `lm_eval/tasks/`; paper/README.md, "Evaluation" (general).
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from env_construction.environment.jsonl import BadInput, read_jsonl
from eval.suites.suite import DataMissing
from train.teaching.made_skills import SKILLS

HUB = "hub"
FEWSHOT_SEED = 1234
SUFFIXES = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
MATH_PROMPT = "{{problem}}\n\nReason step by step. Put the final answer, and nothing else, in \\boxed{}."
HUMAN_EVAL_PROMPT = (
    "Complete this Python function. Answer with the whole function in one ```python block.\n\n```python\n{{prompt}}```"
)
MBPP_PROMPT = (
    "Write Python code for this task. Answer with one ```python block.\n\n{{text}}\n\n"
    "The code has to pass these tests:\n\n```python\n{{test_list | join('\n')}}\n```"
)
OWN_TASK: dict[str, Any] = {
    "test_split": "test",
    "output_type": "generate_until",
    "metric_list": [{"metric": "bypass", "aggregation": "bypass", "higher_is_better": True}],
    "generation_kwargs": {"until": [], "do_sample": False},
    "target_delimiter": "",
}


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. `stock`: glob of lm-eval's task files; None for a project task, configured by `own`.

    `splits`: the required splits. `size`: number of problems in the published test set. `subset`: the only subset, ""
    if there are several. `stands_for`: for a made skill, the benchmark whose task and graders it uses.
    """

    name: str
    hub: str
    size: int
    splits: tuple[str, ...]
    stock: str | None = None
    subset: str = ""
    own: Mapping[str, Any] = field(default_factory=dict)
    stands_for: str = ""


BENCHMARKS = {
    item.name: item
    for item in (
        Benchmark("mmlu", "cais/mmlu", 14042, ("dev", "test"), "mmlu/generative/mmlu_*.yaml", own={"num_fewshot": 5}),
        Benchmark("bbh", "SaylorTwift/bbh", 6511, ("test",), "bbh/cot_fewshot/[a-z]*.yaml"),
        Benchmark(
            "gsm8k",
            "openai/gsm8k",
            1319,
            ("train", "test"),
            "gsm8k/gsm8k.yaml",
            subset="main",
            own={"num_fewshot": 5, "fewshot_config": {"sampler": "first_n"}},
        ),
        Benchmark(
            "math",
            "EleutherAI/hendrycks_math",
            5000,
            ("test",),
            "hendrycks_math/hendrycks_math_[a-z]*.yaml",
            own={"num_fewshot": 0, "training_split": None, "doc_to_text": MATH_PROMPT},
        ),
        Benchmark(
            "humaneval",
            "openai/openai_humaneval",
            164,
            ("test",),
            subset="openai_humaneval",
            own=OWN_TASK | {"num_fewshot": 0, "doc_to_text": HUMAN_EVAL_PROMPT, "doc_to_target": "{{entry_point}}"},
        ),
        Benchmark(
            "mbpp",
            "google-research-datasets/mbpp",
            500,
            ("prompt", "test"),
            subset="full",
            own=OWN_TASK
            | {
                "num_fewshot": 3,
                "fewshot_split": "prompt",
                "fewshot_config": {"sampler": "first_n"},
                "doc_to_text": MBPP_PROMPT,
                "doc_to_target": "```python\n{{code}}\n```",
            },
        ),
    )
}

MADE_STOCK = {
    "mmlu": "mmlu/generative/mmlu_anatomy.yaml",
    "bbh": "bbh/cot_fewshot/boolean_expressions.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
    "math": "hendrycks_math/hendrycks_math_algebra.yaml",
}
MADE_OWN = {
    "num_fewshot": 0,
    "doc_to_text": "{{made_prompt}}",
    "description": "",
    "training_split": None,
    "fewshot_split": None,
    "fewshot_config": None,
}
MADE_TASKS = {
    name: replace(
        BENCHMARKS[original],
        name=name,
        hub="",
        size=0,
        stock=MADE_STOCK.get(original),
        subset="made",
        own={**({} if original in MADE_STOCK else BENCHMARKS[original].own), **MADE_OWN},
        stands_for=original,
    )
    for name, original in zip(SKILLS, BENCHMARKS, strict=True)
}
TASKS = BENCHMARKS | MADE_TASKS


@dataclass(frozen=True)
class Subset:
    """A subset of a benchmark (MMLU subject, BBH task). `files`: its local files by split; empty if from the hub."""

    benchmark: Benchmark
    name: str
    stock: Path | None
    files: Mapping[str, tuple[Path, ...]]


@dataclass(frozen=True)
class Problem:
    """One problem as lm-eval asks it.

    `stops`: where the stock task ends an answer. `task`: lm-eval's task, for its own score. `published`: the problem
    comes from the FTRL authors' file, with their prompt.
    """

    id: str
    benchmark: str
    subset: str
    doc: Mapping[str, Any]
    messages: list[dict[str, str]]
    target: str
    stops: tuple[str, ...]
    task: Any
    published: bool = False

    @property
    def kind(self) -> str:
        """The benchmark whose rules grade it."""
        return TASKS[self.benchmark].stands_for or self.benchmark

    def stock_score(self, text: str) -> bool | None:
        """lm-eval's own score of a final text: its stop strings, filter and metric; the strictest of several filters.

        None for a project task, or if the metric ignores the form that the prompt asks for (MATH).
        """
        if self.kind not in ("mmlu", "bbh", "gsm8k"):
            return None
        from lm_eval.api.instance import Instance

        for stop in self.stops:
            text = text.split(stop)[0] if stop else text
        instance = Instance("generate_until", dict(self.doc), ("", {}), 0, (self.id, 0, 1), resps=[text])
        ensemble = self.task._filters[0]  # lm-eval applies filters only to complete tasks
        ensemble.apply([instance])
        scores = self.task.process_results(self.doc, [instance.filtered_resps[ensemble.name]])
        return bool(scores["exact_match"])


def stock_files(benchmark: Benchmark) -> list[tuple[str, Path | None]]:
    """The benchmark's subsets, each with lm-eval's task file."""
    if benchmark.stock is None:
        return [(benchmark.subset, None)]
    import lm_eval

    root = Path(str(lm_eval.__file__)).parent / "tasks"
    if benchmark.stands_for:
        return [(benchmark.subset, root / str(benchmark.stock))]
    found: list[tuple[str, Path | None]] = []
    for path in sorted(root.glob(benchmark.stock)):
        name = re.search(r"^\"?dataset_name\"?: *\"?([\w-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if name and name[1] != "default":  # skips MATH-500, a part of MATH
            found.append((name[1], path))
    if not found:
        raise BadInput(f"{root / benchmark.stock}: no such file; install lm-eval 0.4.13")
    return found


def find_subsets(data: str, names: Sequence[str], split: str = "test") -> list[Subset]:
    """The subsets of the tasks in a data folder (`hub`: all of them). Raises DataMissing that names every missing task.

    `split`: for the made skills; the benchmarks always use their test sets.
    """
    found: list[Subset] = []
    missing: list[str] = []
    for benchmark in (TASKS[name] for name in names):
        if benchmark.stands_for:
            benchmark = replace(benchmark, splits=(split,), own={**benchmark.own, "test_split": split})
        subsets = [Subset(benchmark, subset, stock, {}) for subset, stock in stock_files(benchmark)]
        if benchmark.stands_for and data == HUB:
            subsets = []
        elif data != HUB:
            located = [(item, _local_files(Path(data), item)) for item in subsets]
            subsets = [Subset(benchmark, item.name, item.stock, files) for item, files in located if files]
        if not subsets:
            folder = f"{data}/{benchmark.name}/" + ("" if benchmark.subset else "<subset>/")
            files = " and ".join(f"{split}.jsonl" for split in benchmark.splits)
            source = (
                "written by `python -m eval.made_skills`" if benchmark.stands_for else f"from the hub's {benchmark.hub}"
            )
            missing.append(f"{benchmark.name}: {files} (or .json, .parquet) in {folder}, {source}")
        found += subsets
    if missing:
        raise DataMissing(
            f"missing: {'; '.join(missing)}. Add the files, omit --data to use the hub, or choose other --tasks"
        )
    return found


def _local_files(data: Path, subset: Subset) -> dict[str, tuple[Path, ...]]:
    folders = [data / subset.benchmark.name / subset.name]
    if subset.benchmark.subset:
        folders.append(data / subset.benchmark.name)
    for folder in folders:
        files = {
            split: tuple(
                path
                for path in sorted(folder.glob(f"{split}*"))
                if path.suffix in SUFFIXES and re.fullmatch(rf"{split}(?:-\d.*)?", path.stem)
            )
            for split in subset.benchmark.splits
        }
        if all(files.values()):
            return files
    return {}


def task_configuration(subset: Subset) -> dict[str, Any]:
    """The lm-eval task file of a subset, as a dictionary."""
    benchmark = subset.benchmark
    configuration: dict[str, Any] = {"include": str(subset.stock)} if subset.stock else {}
    configuration |= {"task": f"{benchmark.name}/{subset.name}", **benchmark.own}
    if not subset.files:
        return configuration | {"dataset_path": benchmark.hub, "dataset_name": subset.name}
    kinds = {SUFFIXES[path.suffix] for paths in subset.files.values() for path in paths}
    if len(kinds) > 1:
        raise BadInput(f"{benchmark.name}/{subset.name}: expected files of one format, got both JSON and Parquet")
    files = {split: [str(path.resolve()) for path in paths] for split, paths in subset.files.items()}
    return configuration | {"dataset_path": kinds.pop(), "dataset_name": None, "dataset_kwargs": {"data_files": files}}


def load_problems(subsets: Sequence[Subset], limit: int | None) -> list[Problem]:
    """All problems of the subsets, as lm-eval asks them.

    `limit`: the number of problems per benchmark, spread over its subsets. Raises DataMissing if the hub cannot be
    reached, BadInput for data that lm-eval cannot use.
    """
    chosen: dict[str, list[list[Problem]]] = {}
    with tempfile.TemporaryDirectory() as folder, _quiet_harness():
        for number, subset in enumerate(tqdm(subsets, unit="task", desc="lm-eval tasks")):
            file = Path(folder) / f"{number}.yaml"
            file.write_text(yaml.safe_dump(task_configuration(subset), sort_keys=False), encoding="utf-8")
            problems = list(_problems(_load_task(file, subset), subset, limit))
            chosen.setdefault(subset.benchmark.name, []).append(problems)
    return [problem for groups in chosen.values() for problem in _spread(groups, limit)]


def _load_task(file: Path, subset: Subset) -> Any:
    from lm_eval.tasks import TaskManager

    where = f"{subset.benchmark.name}/{subset.name}"
    try:
        [task] = TaskManager(include_defaults=False).load([str(file)])["tasks"].values()
    except Exception as error:  # datasets, the hub's client and lm-eval each raise their own exception types
        text = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
        if subset.files:
            raise BadInput(f"{where}: lm-eval cannot use {', '.join(map(str, _paths(subset)))} ({text})") from None
        raise DataMissing(
            f"{where}: the hub's {subset.benchmark.hub} cannot be loaded ({text}); pass a local folder with --data"
        ) from None
    if task.config.num_fewshot is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(FEWSHOT_SEED)
    return task


def _paths(subset: Subset) -> Iterator[Path]:
    for paths in subset.files.values():
        yield from paths


def _problems(task: Any, subset: Subset, limit: int | None) -> Iterator[Problem]:
    try:
        # the policy applies its chat template later, so lm-eval passes the conversation on as JSON
        task.build_all_requests(
            limit=limit, apply_chat_template=True, fewshot_as_multiturn=True, chat_template=_as_json, tokenizer_name=""
        )
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        where = ", ".join(map(str, _paths(subset))) or subset.benchmark.hub
        raise BadInput(
            f"{where}: lm-eval cannot ask these problems ({type(error).__name__}: {str(error)[:200]})"
        ) from None
    for instance in task.instances:
        context, settings = instance.args
        yield Problem(
            id=_problem_id(subset, instance.doc, instance.doc_id),
            benchmark=subset.benchmark.name,
            subset=subset.name,
            doc=instance.doc,
            messages=json.loads(context),
            target=str(task.doc_to_target(instance.doc)),
            stops=tuple(settings.get("until") or ()),
            task=task,
        )


PUBLISHED_NAMES = {
    "General/MMLU": "mmlu",
    "General/BBH": "bbh",
    "General/GSM8K": "gsm8k",
    "General/MATH": "math",
    "General/HumanEval": "humaneval",
    "General/MBPP": "mbpp",
}


def read_published_problems(file: Path, names: Sequence[str], limit: int | None) -> tuple[list[Problem], list[Path]]:
    """The problems of the FTRL authors' General.jsonl, at most `limit` per benchmark, and the files that were read.

    A record has `messages`, `answer` (a letter, a number, an expression, a HumanEval id, MBPP's asserts) and
    `data_source`, such as `General/MMLU`. Raises DataMissing or BadInput.
    """
    if not file.is_file():
        raise DataMissing(f"{file}: no such file; `python -m eval.download general` fetches the authors' file")
    found: dict[str, list[Problem]] = {name: [] for name in names}
    for number, record in read_jsonl(file, required=("messages", "answer", "data_source")):
        name = PUBLISHED_NAMES.get(str(record["data_source"]))
        if name is None:
            raise BadInput(
                f"{file}:{number}: data_source {record['data_source']!r}: expected one of {', '.join(PUBLISHED_NAMES)}"
            )
        if name not in found or (limit is not None and len(found[name]) >= limit):
            continue
        messages = record["messages"]
        if not (isinstance(messages, list) and messages and all(isinstance(item, dict) for item in messages)):
            raise BadInput(f"{file}:{number}: messages: expected a list of chat messages")
        answer = str(record["answer"])
        doc = {"test_list": [answer]} if name == "mbpp" else {"task_id": answer}
        case = answer.replace("HumanEval/", "humaneval/") if name == "humaneval" else f"{name}/published/{number}"
        found[name].append(Problem(case, name, "published", doc, messages, answer, (), None, published=True))
    if missing := [name for name, problems in found.items() if not problems]:
        raise DataMissing(f"{file}: contains no problems of {', '.join(missing)}; choose other --tasks")
    problems = [problem for group in found.values() for problem in group]
    if not found.get("humaneval"):
        return problems, [file]
    [subset] = find_subsets(str(file.parent), ["humaneval"])
    known = {problem.id: problem.doc for problem in load_problems([subset], None)}
    if unknown := next((problem.id for problem in found["humaneval"] if problem.id not in known), None):
        raise BadInput(f"{file}: {unknown} is not in {', '.join(map(str, _paths(subset)))}")
    problems = [
        replace(problem, doc=known[problem.id]) if problem.benchmark == "humaneval" else problem for problem in problems
    ]
    return problems, [file, *_paths(subset)]


def _as_json(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
    return json.dumps([dict(message) for message in messages], ensure_ascii=False)


def _problem_id(subset: Subset, doc: Mapping[str, Any], doc_id: int) -> str:
    """`mmlu/anatomy/12`, `gsm8k/7`; programming problems keep their published number: `humaneval/3`, `mbpp/11`."""
    benchmark = subset.benchmark.name
    if benchmark in ("humaneval", "mbpp"):
        return f"{benchmark}/{str(doc['task_id']).rpartition('/')[2]}"
    return f"{benchmark}/{doc_id}" if subset.benchmark.subset else f"{benchmark}/{subset.name}/{doc_id}"


def _spread(groups: Sequence[Sequence[Problem]], limit: int | None) -> list[Problem]:
    """The first `limit` problems, taken in rotation from the subsets, in their order."""
    if limit is None:
        return [problem for group in groups for problem in group]
    rounds = sorted((place, number) for number, group in enumerate(groups) for place in range(len(group)))[:limit]
    return [groups[number][place] for number, place in sorted((number, place) for place, number in rounds)]


@contextmanager
def _quiet_harness() -> Iterator[None]:
    """One progress bar instead of two for each of 94 tasks, and only warnings in the log."""
    import datasets
    import lm_eval.api.task as harness

    noisy = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in noisy]
    bars = harness.tqdm
    shown = datasets.is_progress_bar_enabled()
    try:
        harness.tqdm = partial(bars, disable=True)
        datasets.disable_progress_bars()
        for logger in noisy:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        harness.tqdm = bars
        if shown:
            datasets.enable_progress_bars()
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
