"""The paper's six claims: the verdict that this run's data support, and the evidence.

Verdicts: `reproduced` (every part holds), `partly` (some parts hold), `not reproduced` (no part holds and at least one
is refuted), `inconclusive` (the intervals are too wide to decide), `not tested`. analysis.run_data.verdicts has the
rule. `scope` states which models and data a verdict covers. A tiny model can show that the method works as described,
but it says nothing about the effect size on the paper's models.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.checkpoints.permutation_test import layers_text
from analysis.general_retention import LABELS as BENCHMARKS
from analysis.general_retention import POOLED
from analysis.reward_ablation import variants
from analysis.run_data.intervals import Row, estimate_text, paired_difference
from analysis.run_data.labels import REWARDS
from analysis.run_data.run_folder import Run
from analysis.run_data.verdicts import (
    INCONCLUSIVE,
    MARGIN,
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    direction,
    verdict,
)
from analysis.training_seeds import pooled_rows

METRICS = {"solve_f1": "Solve-F1", "answer_correct": "answer accuracy"}
COST = "calls"
OUT_OF_DOMAIN = {
    "unseen_relations": ("solve_f1", "Solve-F1"),
    "next_level": ("solve_f1", "Solve-F1"),
    "disturbed": ("solve_f1", "Solve-F1"),
    "toolhop": ("ac_published", "answer correctness"),
    "rotbench": ("cf_published", "content filling"),
    "tau_bench": ("reward", "reward"),
}
GENERAL_TASKS = 6
MOSTLY_STABLE = 0.95
UPPER_REFERENCE = "oracle-demonstrations"
MAIN_ALGORITHMS = ("grpo", "reinforce++")


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and what this run says about it."""

    number: int
    text: str
    verdict: str
    scope: str
    evidence: str


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _construction(run: Run, analysis: Path) -> Claim:
    text = "A five-stage pipeline automatically builds stable tool environments that need no online tools."
    rows = _read_csv(analysis / "construction_stability.csv")
    parts: list[int | None] = [None]
    if rows:
        total, unstable, skipped = (
            sum(int(row[key]) for row in rows) for key in ("replayed", "unstable", "not_replayed")
        )
        broken = "; ".join(f"{row['split']}: {row['rules_broken']}" for row in rows if row["rules_broken"])
        evidence = (
            f"{total} built environments were replayed in new processes with another hash seed: "
            f"{total - unstable} behave as built"
            + (f"; {skipped} could not be replayed" if skipped else "")
            + (f" ({broken})" if broken else "")
            + "."
        )
        rejected = [int(row["rejected_by_build"]) for row in rows if row.get("rejected_by_build")]
        if rejected:
            evidence += f" The build had already rejected {sum(rejected)} candidates."
        parts = [1] if not unstable else [1, -1] if total - unstable >= MOSTLY_STABLE * total else [-1]
        parts += [None] if skipped else []
        parts = parts if total else [None]
    else:
        evidence = "The environments were not replayed after the build."
    for ceiling in (name for name in run.policies if run.roles[name].role == "ceiling"):
        played = run.rows(ceiling)
        perfect = sum(float(row["solve_f1"]) == 1.0 for row in played)
        evidence += f" The oracle scores Solve-F1 = 1 on {perfect} of {len(played)} test environments"
        expected = ", as expected: the build keeps only environments that the gold plan solves."
        evidence += expected if perfect == len(played) else "."
        parts += [-1] if perfect < len(played) else []
    levels = list(dict.fromkeys(row["level"] for row in rows if row.get("level")))
    where = f"; {'levels' if len(levels) > 1 else 'level'} {', '.join(levels)}" if levels else ""
    return Claim(1, text, verdict(parts), f"environments built from data, not by a language model{where}", evidence)


def _gaps(after: Sequence[Row], before: Sequence[Row]) -> tuple[list[int | None], str]:
    """Directions of the paired differences in METRICS, and their text, which includes the change in calls."""
    found = {metric: paired_difference(after, before, metric) for metric in METRICS}
    said = ", ".join(f"{METRICS[metric]} {estimate_text(gap, signed=True)}" for metric, gap in found.items())
    calls = paired_difference(after, before, COST)
    directions = [direction(gap) for gap in found.values()]
    return directions, f"{said}, calls per case {estimate_text(calls, digits=2, signed=True)}"


def _reward_balance(run: Run) -> Claim:
    text = "A verifiable reward, computed only from the environment, balances precision and completeness of tool use."
    sides = variants(run)
    if not sides:
        return Claim(2, text, NOT_TESTED, "", "This run trained no policy with another reward.")
    lines: list[str] = []
    parts: list[int | None] = []
    for base, others in sides.items():
        for variant, policy in others.items():
            if variant not in REWARDS:  # ours, which the paper's claim is not about
                continue
            found, said = _gaps(run.rows(base), run.rows(policy))
            parts += found
            lines.append(f"{run.label(base)} with the Solve-F1 reward − with the {REWARDS[variant]}: {said}")
        absent = [label for variant, label in REWARDS.items() if variant not in others and variant != "solve_f1"]
        if absent:
            parts.append(None)
            lines.append(f"{run.label(base)} was not trained with the {' and the '.join(absent)}")
    n = len({row["id"] for row in run.rows(next(iter(sides)))})
    return Claim(2, text, verdict(parts), _scope(run), "; ".join(lines) + f"; n = {n}.")


def _training_gain(run: Run) -> Claim:
    text = (
        "With this reward, GRPO and REINFORCE++ both improve tool use by about 10 points on average, "
        "in domain and out of domain."
    )
    seeds = run.training_seeds()
    main = [
        name
        for name in seeds
        if run.roles[name].role == "trained" and run.roles[name].algorithm in MAIN_ALGORITHMS and run.start_of(name)
    ]
    if not main:
        return Claim(3, text, NOT_TESTED, "", "No trained policy was evaluated together with its start.")
    lines: list[str] = []
    notes: list[str] = []
    parts: list[int | None] = []
    for name in main:
        found, said, remarks = _one_gain(run, name, list(seeds[name].values()))
        parts += found
        lines.append(said)
        notes += remarks
    for control in (name for name in run.policies if run.roles[name].role == "control" and run.start_of(name)):
        said = _gaps(run.rows(control), run.rows(run.roles[control].start))[1]
        lines.append(f"control {run.label(control)} − start: {said}")
    outside, said_outside = _out_of_domain(run, main)
    for algorithm in MAIN_ALGORITHMS:
        if not any(run.roles[name].algorithm == algorithm for name in main):
            parts.append(None)
            notes.append(f"{algorithm.upper()} was not trained")
    n = len({row["id"] for row in run.rows(run.roles[main[0]].start)})
    evidence = "; ".join([*lines, *said_outside]) + f". Paired over n = {n} test environments, 95% intervals"
    counts = sorted({len(seeds[name]) for name in main})
    where = "in and out of domain" if said_outside else "in domain only"
    repeats = "one seed each" if counts == [1] else f"{' or '.join(map(str, counts))} seeds each"
    scope = f"{_scope(run)}; {where}, {repeats}"
    return Claim(3, text, verdict([*parts, *outside]), scope, "; ".join([evidence, *notes]) + ".")


def _one_gain(run: Run, name: str, seeds: list[str]) -> tuple[list[int | None], str, list[str]]:
    """Parts, evidence and remarks on one trained policy: its gain, its controls and its answer accuracy."""
    before, label = run.rows(run.roles[name].start), run.label(name)
    together = pooled_rows(run, seeds)
    directions, said = _gaps(together, before)
    gained = directions[0]
    notes = []
    leads = [direction(paired_difference(run.rows(name), run.rows(rival), "solve_f1")) for rival in _rivals(run, name)]
    if gained == 1 and -1 in leads:
        notes.append(f"a control does as well as {label}, so the reward cannot be credited with the gain")
    elif gained == 1 and 0 in leads:
        notes.append(f"{label} is not shown to be better than a control")
    parts: list[int | None] = [min([gained, *leads], key=lambda part: 0 if part is None else part)]
    lost = paired_difference(together, before, "answer_correct")
    if lost.high is not None and lost.high < 0:
        parts.append(-1)
        notes.append(f"{label} answers fewer questions correctly than its start")
    return parts, f"{label} − start: {said}", notes


def _rivals(run: Run, policy: str) -> list[str]:
    """Controls with the policy's start and, if they have one, its algorithm. Their gain is not due to the reward.

    Oracle demonstrations are no rival: they show the gold plan, which no policy has. They are an upper reference.
    """
    mine = run.roles[policy]
    return [
        name
        for name in run.paired_with(mine.start)
        if run.roles[name].role == "control"
        and run.roles[name].control != UPPER_REFERENCE
        and run.roles[name].algorithm in ("", mine.algorithm)
    ]


def _out_of_domain(run: Run, policies: Sequence[str]) -> tuple[list[int | None], list[str]]:
    parts: list[int | None] = []
    said = []
    for suite, (metric, label) in OUT_OF_DOMAIN.items():
        measured = run.policies_of(suite)
        for name in policies:
            start = run.start_of(name, suite)
            if name in measured and start:
                rows = [*run.rows(name, suite), *run.rows(start, suite)]
                if not any(row.get(metric) for row in rows):  # a suite that is too hard tells nothing
                    parts.append(None)
                    said.append(f"{run.label(name)} and its start score 0 on {suite}, so it cannot show a difference")
                    continue
                gap = paired_difference(run.rows(name, suite), run.rows(start, suite), metric)
                parts.append(direction(gap))
                said.append(f"{run.label(name)} − start on {suite}: {label} {estimate_text(gap, signed=True)}")
    return parts or [None], said


def _general(run: Run, analysis: Path) -> Claim:
    text = "General capability (MMLU, BBH, GSM8K, MATH, HumanEval, MBPP) does not degrade."
    rows = _read_csv(analysis / "general_retention.csv")
    pooled = [row for row in rows if row["task"] == POOLED]
    if not pooled:
        return Claim(4, text, NOT_TESTED, "", "The general suites were not run before and after training.")
    tasks = list(dict.fromkeys(row["task"] for row in rows if row["task"] != POOLED))
    kind = "benchmarks" if set(tasks) <= BENCHMARKS.keys() else "made skills"
    lines = [
        f"{run.label(row['policy'])}: mean change on {len(tasks)} {kind} {_signed(row['difference'], 1)} "
        f"[{_signed(row['difference_low'], 1)}, {_signed(row['difference_high'], 1)}] points, "
        f"margin {_signed(row['margin'], 1)}"
        for row in pooled
    ]
    parts: list[int | None] = [
        1 if row["non_inferior"] == "True" else -1 if float(row["difference_high"]) < float(row["margin"]) else 0
        for row in pooled
    ]
    worse = [
        row
        for row in rows
        if row["task"] != POOLED and float(row["difference"]) < 0 and float(row["difference_p_holm"] or 1) < 0.05
    ]
    if worse:
        named = ", ".join(f"{run.label(row['policy'])} on {row['task']}" for row in worse)
        lines.append(f"significantly worse (Holm): {named}")
        parts.append(-1)
    if len(tasks) < GENERAL_TASKS:
        lines.append(f"only {len(tasks)} of the six {kind} were run")
        parts.append(None)
    if parts.count(0) == len(pooled):
        lines.append("too few problems to rule out a loss")
    what = "" if kind == "benchmarks" else "; six made skills replace the benchmarks"
    return Claim(4, text, verdict(parts), _scope(run) + what, "; ".join(lines) + ".")


def _lower_mlp(run: Run, analysis: Path) -> Claim:
    text = (
        "The gain comes from updates to lower-layer MLP parameters (layers 0-2), "
        "which the paper interprets as better context understanding."
    )
    maps = _heat_maps(analysis)
    layers = [
        row
        for row in _read_csv(analysis / "restore_layers.csv")
        if (row["mode"], row["group"]) == ("only", "lower MLP")
    ]
    elements = [row for row in _read_csv(analysis / "restore_elements.csv") if row["order"] == "top"]
    gained = [row for row in layers if _has_gain(row) and row["share_low"] and row["lead_low"]]
    by_element = [row for row in elements if _has_gain(row) and row["random_minus_low"]]
    if not layers and not elements:
        if not maps:
            return Claim(5, text, NOT_TESTED, "", "No pair of checkpoints was compared.")
        causal = "No weights were restored to the start as a test, and a heat map alone cannot show a cause."
        return Claim(5, text, NOT_TESTED, "", f"{causal} {maps}")
    if not gained and not by_element:
        evidence = f"Weights were restored, but no trained policy has a significant gain to attribute. {maps}".strip()
        return Claim(5, text, NOT_TESTED, "", evidence)
    lines = [
        f"{run.label(row['policy'])}: the start with only the MLPs of {_tested_layers(row)} from the trained model has "
        f"{100 * float(row['share']):.0f}% of the gain "
        f"[{100 * float(row['share_low']):.0f}, {100 * float(row['share_high']):.0f}]; difference to the best other "
        f"group: Solve-F1 {_signed(row['lead'])} [{_signed(row['lead_low'])}, {_signed(row['lead_high'])}]"
        for row in gained
    ]
    parts: list[int | None] = [_side(row["lead_low"], row["lead_high"]) for row in gained]
    for row in by_element:
        enriched = float(row["lower_mlp_share"]) / max(1e-9, float(row["lower_mlp_of_all"]))
        lines.append(
            f"{run.label(row['policy'])}: restoring the top {row['percent']}% of the weights loses "
            f"{_signed(row['random_minus'])} [{_signed(row['random_minus_low'])}, {_signed(row['random_minus_high'])}] "
            f"Solve-F1 more than restoring random ones; lower MLPs hold {enriched:.1f} times as large a share of the "
            "top weights as of all weights"
        )
        side = _side(row["random_minus_low"], row["random_minus_high"])
        # Top weights that carry the gain support the claim only if the lower MLPs hold more than their share of them.
        parts.append(side if side != 1 or enriched > 1 else -1)
    if not gained:
        parts.append(None)
    end = ". The intervals are too wide to decide" if not any(parts) else ""
    scope = _scope(run) + "; causal tests by restoring weights to the start"
    return Claim(5, text, verdict(parts), scope, "; ".join(lines) + end + (f". {maps}" if maps else "."))


def _has_gain(row: dict[str, str]) -> bool:
    return bool(row["gain_low"]) and float(row["gain_low"]) > 0


def _side(low: str, high: str) -> int:
    """+1 if an interval is above 0, -1 if it is below 0, 0 if it contains 0."""
    return 1 if float(low) > 0 else -1 if float(high) < 0 else 0


def _heat_maps(analysis: Path) -> str:
    """How many heat maps agree with the claim, for each measure; empty if there are none."""
    tests = [row for path in sorted(analysis.glob("parameter_tests_*.csv")) for row in _read_csv(path)]
    if not tests:
        return ""
    if not any(row["can_be_significant"] == "True" for row in tests):
        smallest = min(float(row["smallest_possible_p"]) for row in tests)
        return f"The model has too few layers to test the heat maps: the smallest possible p-value is {smallest:.3f}."
    lower = ", ".join(sorted({layers_text(int(row["lower_layers"])) for row in tests}))
    said = []
    for measure in dict.fromkeys(row["measure"] for row in tests):
        mine = [row for row in tests if row["measure"] == measure]
        said.append(f"{measure} {sum(float(row['p_value']) <= 0.05 for row in mine)} of {len(mine)}")
    return f"Heat maps: exact tests of 'the MLPs of {lower} change most' are significant for {', '.join(said)}."


def _tested_layers(row: dict[str, str]) -> str:
    lower = row.get("lower_layers")
    return layers_text(int(lower)) if lower else "the lower layers (numbers not recorded)"


def _thinking(run: Run, analysis: Path) -> Claim:
    text = "For current open models, thinking mode is not reliably better at tool use than non-thinking mode."
    rows = _read_csv(analysis / "thinking_modes.csv")
    # "Not reliably" is a statement about every model, so one model whose gain is below the margin is enough.
    gap = "solve_f1_thinking_minus_plain"
    pairs = [row for row in rows if row["scope"] == "all" and row.get(f"{gap}_low")]
    if not pairs:
        return Claim(6, text, NOT_TESTED, "", "No policy was evaluated in both modes.")
    better = [row for row in pairs if float(row[f"{gap}_low"]) > 0]
    bounded = [row for row in pairs if float(row[f"{gap}_high"]) < MARGIN]
    answers = "answer_correct_thinking_minus_plain"
    lines = []
    for row in pairs:
        said = f"{row['label']}, thinking − plain: Solve-F1 {_interval(row, gap)}"
        lines.append(said + (f", answer accuracy {_interval(row, answers)}" if row.get(f"{answers}_low") else ""))
    kinds = {row.get("trained") for row in pairs}
    which = (
        "; untrained and trained" if len(kinds) > 1 else "; trained only" if kinds == {"True"} else "; untrained only"
    )
    scope = _scope(run) + which + ", same cases, paired"
    if bounded:
        found, end = REPRODUCED, f"Not better in {len(bounded)} of {len(pairs)} pairs."
    elif len(better) == len(pairs):
        found, end = NOT_REPRODUCED, "Significantly better in every pair."
    else:
        found, end = INCONCLUSIVE, f"Better in {len(better)} of {len(pairs)} pairs."
    return Claim(6, text, found, scope, f"{'; '.join(lines)}. {end}")


def _interval(row: dict[str, str], key: str) -> str:
    return f"{_signed(row[key])} [{_signed(row[f'{key}_low'])}, {_signed(row[f'{key}_high'])}]"


def _signed(number: str, digits: int = 3) -> str:
    return f"{float(number):+.{digits}f}".replace("-", "−")


def _scope(run: Run) -> str:
    return f"at small scale ({run.model_label()})" if run.is_tiny else f"on {run.model_label()}"


def claims(run: Run, analysis: Path) -> list[Claim]:
    """All six verdicts; `analysis` is the folder with the tables that `analysis.all` wrote."""
    return [
        _construction(run, analysis),
        _reward_balance(run),
        _training_gain(run),
        _general(run, analysis),
        _lower_mlp(run, analysis),
        _thinking(run, analysis),
    ]
