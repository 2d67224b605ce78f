"""Build a data set with the LLM author: many environments under way at once, each repaired until it is valid or given
up.

`build.py --author llm` comes here. Out, in the output folder: `train.jsonl`, `dev.jsonl`, `test.jsonl` with what is
valid; `rejected.jsonl` with what could not be repaired, by rule and message; `ledger.json`. Lines are written in the
order of the questions, whatever the concurrency; only what a fault of the endpoint left out comes later. A run that was
stopped (killed, budget spent, endpoint down) goes on where it was: finished environments are not made again, and what
the model said before comes from the cache. A fault of the endpoint is no rejection: the next run tries again.

An environment whose question is there already, or that shares a gold call or sub-question with another split, is given
up too; so is a domain's question after DOMAIN_ATTEMPTS, a user's question after one.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.building.author import AuthorFault, BudgetSpent, Draft, Rejected
from env_construction.building.author_options import LlmOptions, make_llm_author, read_topics
from env_construction.building.environment_builder import BuildConfiguration, new_draft
from env_construction.data_statistics import Tally
from env_construction.environment.jsonl import BadInput, JsonlWriter, file_sha256, read_jsonl
from env_construction.environment.schema import SCENARIOS, Environment, Split, read_environments
from env_construction.llm.author import LlmAuthor
from env_construction.llm.replies import prompt_versions
from env_construction.rules.duplicates import DISTINCT, DistinctCounter, distinct_keys, hash64, question_key
from env_construction.rules.repair import build_repaired

DOMAIN_ATTEMPTS = 3
FAULTS_IN_A_ROW = 5
"""So many environments in a row without an answer from the endpoint end the run."""


@dataclass
class Outcome:
    """What became of one index: an environment, or the reason why there is none."""

    draft: Draft
    environment: Environment | None = None
    rejections: Counter[str] = field(default_factory=Counter)
    rejected: Rejected | None = None
    stopped: BaseException | None = None


@dataclass
class SharedKeys:
    """Which questions there are, and which split each gold call and sub-question belongs to."""

    questions: set[int] = field(default_factory=set)
    owners: dict[int, str] = field(default_factory=dict)

    def problem(self, environment: Environment) -> Rejected | None:
        if question_key(environment) in self.questions:
            return Rejected("duplicate", "the question is there already")
        split = next((self.owners[key] for key in _parts(environment) if key in self.owners), environment.split)
        if split != environment.split:
            return Rejected("shared_with_other_split", f"a gold call or sub-question occurs in {split} too")
        return None

    def add(self, environment: Environment) -> None:
        self.questions.add(question_key(environment))
        self.owners.update(dict.fromkeys(_parts(environment), environment.split))


def _parts(environment: Environment) -> list[int]:
    calls = [json.dumps([call.name, call.arguments], sort_keys=True) for call in environment.gold_plan]
    asked = [" ".join(item.question.casefold().split()) for item in environment.sub_questions]
    return [hash64(text) for text in (*calls, *asked)]


class LlmBuild:
    """One run over all splits. `faults` counts environments that the endpoint did not answer for, `fault_words` has its
    words.
    """

    def __init__(self, configuration: BuildConfiguration, options: LlmOptions, out: Path) -> None:
        self.configuration = configuration
        self.options = options
        self.out = out
        self.topics = read_topics(options)
        self.by_question = options.questions is not None
        self.author: LlmAuthor = make_llm_author(options)
        self.keys = SharedKeys()
        self.faults: Counter[str] = Counter()
        self.fault_words: dict[str, str] = {}
        self.budget_message = ""
        self._faults_in_a_row = 0

    def run(self, sizes: Mapping[Split, int]) -> dict[str, dict[str, Any]]:
        """Build all splits; returns their statistics. Raises BadInput for too few questions and an endpoint that is
        down.
        """
        if self.by_question and sum(sizes.values()) > len(self.topics):
            raise BadInput(
                f"{self.options.questions}: {len(self.topics)} questions for {sum(sizes.values())} environments; set --n-train, --n-dev "
                "and --n-test"
            )
        with self.author.sandbox, JsonlWriter(self.out / "rejected.jsonl") as rejected:
            writers = {split: JsonlWriter(self.out / f"{split}.jsonl") for split in sizes}
            try:
                for split in sizes:
                    for environment in read_environments(writers[split].path):
                        self.keys.add(environment)
                first = 0
                for split, count in sizes.items():
                    if not self.budget_message:
                        self._split(split, count, first, writers[split], rejected)
                    first += count
            finally:
                for writer in writers.values():
                    writer.close()
                self.author.endpoint.ledger.save()
        return {split: split_statistics(self.out, split) for split in sizes}

    def _split(self, split: Split, count: int, first: int, writer: JsonlWriter, rejected: JsonlWriter) -> None:
        done = writer.done | rejected.done
        drafts = [self._draft(split, index, first + index, 0) for index in range(count)]
        waiting = [draft for draft in drafts if draft.id not in done]
        with (
            ThreadPoolExecutor(self.options.concurrency) as pool,
            tqdm(total=count, initial=count - len(waiting), desc=split, unit="env", disable=None) as bar,
            closing(self._in_order(pool, iter(waiting), first)) as outcomes,
        ):
            for outcome in outcomes:
                if self.budget_message:
                    continue  # it comes in its turn, out of the cache, when the run goes on
                if outcome.stopped is None:
                    outcome = self._distinct(outcome, first)
                if outcome.stopped is None:
                    self._faults_in_a_row = 0
                    self._write(outcome, writer, rejected)
                    bar.update()
                else:
                    self._take_note(outcome.stopped)

    def _take_note(self, stopped: BaseException) -> None:
        """A spent budget lets what is under way come to its end; faults are counted, many in a row end the run."""
        if isinstance(stopped, BudgetSpent):
            self.budget_message = str(stopped)
        elif isinstance(stopped, AuthorFault):
            kind = str(stopped).split(":")[0]
            self.faults[kind] += 1
            self.fault_words[kind] = str(stopped)
            self._faults_in_a_row += 1
            if self._faults_in_a_row == FAULTS_IN_A_ROW:
                raise BadInput(f"the endpoint did not answer {FAULTS_IN_A_ROW} times in a row: {stopped}")
        else:
            raise stopped

    def _in_order(
        self, pool: ThreadPoolExecutor, drafts: Iterator[Draft], first: int
    ) -> Generator[Outcome, None, None]:
        """Outcomes in the drafts' order, a few under way at a time; none is begun after the budget is spent."""
        under_way: deque[Future[Outcome]] = deque()
        going = True
        try:
            while True:
                while going and len(under_way) < 2 * self.options.concurrency:
                    draft = next(drafts, None)
                    if draft is None:
                        going = False
                        break
                    under_way.append(pool.submit(self._outcome, draft, first))
                if not under_way:
                    return
                outcome = under_way.popleft().result()
                if isinstance(outcome.stopped, BudgetSpent):
                    going = False
                yield outcome
        finally:
            for future in under_way:
                future.cancel()

    def _draft(self, split: Split, index: int, ordinal: int, attempt: int) -> Draft:
        turn = ordinal if self.by_question else index // len(SCENARIOS)
        topic = self.topics[turn % len(self.topics)]
        return new_draft(self.configuration, split, index, attempt, topic)

    def _outcome(self, draft: Draft, first: int, rejections: Counter[str] | None = None) -> Outcome:
        """Never raises: what ends the run comes back in `stopped`."""
        outcome = Outcome(draft, rejections=rejections or Counter())
        try:
            while True:
                try:
                    environment, _ = build_repaired(self.author, outcome.draft, self.author.sandbox)
                except Rejected as problem:
                    outcome.rejections[f"{outcome.draft.scenario}/{problem.rule}"] += 1
                    outcome.rejected = problem
                    again = self._next_attempt(outcome.draft, first)
                    if again is None:
                        return outcome
                    outcome.draft = again
                    continue
                outcome.environment = environment
                return outcome
        except BaseException as stopped:
            outcome.stopped = stopped
            return outcome

    def _next_attempt(self, draft: Draft, first: int) -> Draft | None:
        if self.by_question or draft.attempt + 1 >= DOMAIN_ATTEMPTS:
            return None
        return self._draft(draft.split, draft.index, first + draft.index, draft.attempt + 1)

    def _distinct(self, outcome: Outcome, first: int) -> Outcome:
        """The outcome, or what later attempts gave where its environment repeats another one."""
        while outcome.environment is not None:
            problem = self.keys.problem(outcome.environment)
            if problem is None:
                return outcome
            outcome.rejections[f"{outcome.draft.scenario}/{problem.rule}"] += 1
            outcome.rejected, outcome.environment = problem, None
            again = self._next_attempt(outcome.draft, first)
            if again is not None:
                outcome = self._outcome(again, first, outcome.rejections)
        return outcome

    def _write(self, outcome: Outcome, writer: JsonlWriter, rejected: JsonlWriter) -> None:
        if outcome.environment is None:
            rejected.write(_rejection(outcome))
            return
        self.keys.add(outcome.environment)
        if outcome.rejections:
            outcome.environment.provenance["rejections"] = dict(sorted(outcome.rejections.items()))
        writer.write(outcome.environment.to_record())


def _rejection(outcome: Outcome) -> dict[str, Any]:
    draft, reason = outcome.draft, outcome.rejected
    plan = draft.decomposition
    return {
        "id": draft.id,
        "split": draft.split,
        "scenario": draft.scenario,
        "question": (draft.topic.question if draft.topic else "") or (plan.question if plan else ""),
        "rule": reason.rule if reason else "",
        "message": reason.message if reason else "",
        "repairs": draft.provenance.get("repairs", {}),
        "rejections": dict(sorted(outcome.rejections.items())),
    }


def split_statistics(folder: Path, split: Split) -> dict[str, Any]:
    """What `build.py` counts for a split, and the yield: how many environments were valid at once, after repair, and
    not at all.
    """
    tally, rejections, flags, repairs = Tally(), Counter[str](), Counter[str](), Counter[str]()
    distinct = {name: DistinctCounter() for name in DISTINCT}
    valid = at_once = 0
    for environment in read_environments(folder / f"{split}.jsonl"):
        valid += 1
        tally.add(environment)
        for name, keys in distinct_keys(environment).items():
            distinct[name].add(keys)
        provenance = environment.provenance
        at_once += not provenance.get("repairs") and not provenance.get("rejections")
        repairs.update(provenance.get("repairs", {}))
        rejections.update(provenance.get("rejections", {}))
        flags.update(f"{environment.scenario}/{rule}" for rule in provenance.get("flags", ()))
    lost = [record for _, record in read_jsonl(folder / "rejected.jsonl") if record["split"] == split]
    for record in lost:
        repairs.update(record["repairs"])
        rejections.update(record["rejections"])
    return {
        "environments": valid,
        "yield": {
            "asked": valid + len(lost),
            "valid at once": at_once,
            "valid after repair": valid - at_once,
            "rejected": len(lost),
        },
        "repairs by stage": dict(sorted(repairs.items())),
        "rejections by scenario and rule": dict(sorted(rejections.items())),
        "flags by scenario and rule": dict(sorted(flags.items())),
        "distinct (estimated)": {name: counter.estimate() for name, counter in distinct.items()},
        **tally.to_record(),
    }


def llm_configuration(options: LlmOptions, sizes: Mapping[Split, int]) -> dict[str, Any]:
    """What the environments depend on besides the build's own configuration; the sizes tell which question goes to
    which split.
    """
    return {
        "model": options.model,
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
        "tries": options.tries,
        "domains": list(options.domains),
        "questions": {**sizes, "sha256": file_sha256(options.questions)} if options.questions else {},
        "prompts": prompt_versions(),
    }
