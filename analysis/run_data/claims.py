"""The paper's six claims, each with the verdict that this run's data allow, and the evidence.

Verdicts: `reproduced` (every part holds), `partly` (some parts hold), `not reproduced` (none holds and one is refuted), `inconclusive` (the
intervals leave it open), `not tested`; analysis.run_data.verdicts has the rule. `scope` says how far a verdict reaches. A tiny model can show that the
method works as described; it says nothing about the size of the effect on the paper's models.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.checkpoints.permutation_test import layers_text
from analysis.general_retention import POOLED
from analysis.run_data.intervals import Row, estimate_text, paired_difference
from analysis.run_data.run_folder import ABLATIONS, Run, is_control, policy_label
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
OUT_OF_DOMAIN = {"toolhop": "ac_published", "rotbench": "cf_published", "tau_bench": "reward"}
BENCHMARKS = 6
MOSTLY_STABLE = 0.95


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
    text = "A five-stage pipeline builds stable tool environments automatically, with no online tool behind them."
    rows = _read_csv(analysis / "construction_stability.csv")
    parts: list[int | None] = [None]
    if rows:
        total, unstable, skipped = (
            sum(int(row[key]) for row in rows) for key in ("replayed", "unstable", "not_replayed")
        )
        broken = "; ".join(f"{row['split']}: {row['rules_broken']}" for row in rows if row["rules_broken"])
        evidence = (
            f"{total} built environments, replayed again in fresh processes: {total - unstable} behave as built"
            + (f"; {skipped} could not be replayed" if skipped else "")
            + (f" ({broken})" if broken else "")
            + "."
        )
        parts = [1] if not unstable else [1, -1] if total - unstable >= MOSTLY_STABLE * total else [-1]
        parts += [None] if skipped else []
        parts = parts if total else [None]
    else:
        evidence = "The environments were not replayed after the build (analysis.construction_stability)."
    if "oracle" in run.policies:
        played = run.rows("oracle")
        perfect = sum(float(row["solve_f1"]) == 1.0 for row in played)
        evidence += f" The oracle scores Solve-F1 = 1 on {perfect} of {len(played)} test environments"
        evidence += ", as it must: the build keeps only what its gold plan solves." if perfect == len(played) else "."
        parts += [-1] if perfect < len(played) else []
    return Claim(1, text, verdict(parts), "with the fact author, not with an LLM as author", evidence)


def _gaps(after: Sequence[Row], before: Sequence[Row]) -> tuple[list[int | None], str]:
    """Directions of the paired differences in METRICS, and their text."""
    found = {metric: paired_difference(after, before, metric) for metric in METRICS}
    said = ", ".join(f"{estimate_text(gap, signed=True)} {METRICS[metric]}" for metric, gap in found.items())
    return [direction(gap) for gap in found.values()], said


def _reward_balance(run: Run) -> Claim:
    text = "A verifiable reward, computed from the environment alone, balances precision of tool use and completeness."
    bases = [name for name in run.trained if any(f"{name}-{variant}" in run.policies for variant in ABLATIONS)]
    if not bases:
        return Claim(2, text, NOT_TESTED, "", "The four rewards were not trained side by side in this run.")
    lines: list[str] = []
    parts: list[int | None] = []
    for base in bases:
        for variant, label in ABLATIONS.items():
            if f"{base}-{variant}" in run.policies:
                found, said = _gaps(run.rows(base), run.rows(f"{base}-{variant}"))
                parts += found
                lines.append(f"Solve-F1 reward against {label} ({policy_label(base)}): {said}")
    return Claim(2, text, verdict(parts), _scope(run), "; ".join(lines) + f"; n = {len(run.rows(bases[0]))}.")


def _training_gain(run: Run) -> Claim:
    text = "With it, GRPO and REINFORCE++ both improve tool use, in domain and out of domain, by about 10 points on average."
    main = [name for name in ("grpo", "reinforce++") if name in run.trained]
    if "start" not in run.policies or not main:
        return Claim(3, text, NOT_TESTED, "", "No trained policy was evaluated beside its start.")
    repeats = {name: list(run.training_seeds()[name].values()) for name in main}
    lines, notes = [], []
    parts: list[int | None] = [None] * (2 - len(main))
    for name in main:
        directions, said = _gaps(pooled_rows(run, repeats[name]), run.rows("start"))
        gained = directions[0]
        lines.append(f"{policy_label(name)} − start: {said}")
        rivals = [policy for policy in run.policies if is_control(policy) and _rivals(policy, name)]
        leads = [direction(paired_difference(run.rows(name), run.rows(rival), "solve_f1")) for rival in rivals]
        if gained == 1 and -1 in leads:
            notes.append(f"a control does as well as {policy_label(name)}, so its gain is not the reward's")
        elif gained == 1 and 0 in leads:
            notes.append(f"{policy_label(name)} is not shown to be ahead of a control")
        parts.append(min([gained, *leads], key=lambda part: 0 if part is None else part))
        lost = paired_difference(pooled_rows(run, repeats[name]), run.rows("start"), "answer_correct")
        if lost.high is not None and lost.high < 0:
            parts.append(-1)
            notes.append(f"{policy_label(name)} answers fewer questions than the start")
    for control in filter(is_control, run.policies):
        lines.append(f"control {policy_label(control)} − start: {_gaps(run.rows(control), run.rows('start'))[1]}")
    outside, said_outside = _out_of_domain(run, main)
    parts += outside
    if len(main) < 2:
        notes.append(f"only {policy_label(main[0])} was trained")
    n = len({row["id"] for row in run.rows("start")})
    evidence = "; ".join([*lines, *said_outside]) + f". Paired over n = {n} test environments, 95% intervals"
    seeds = min(len(run.training_seeds().get(name, {})) for name in main)
    where = "in and out of domain" if said_outside else "in domain only"
    scope = _scope(run) + f"; {where}, {'one seed' if seeds == 1 else f'{seeds} seeds'} each"
    return Claim(3, text, verdict(parts), scope, "; ".join([evidence, *notes]) + ".")


def _rivals(control: str, policy: str) -> bool:
    """A control that gains as much as the policy shows that the gain is not the reward's."""
    return control == "more-supervised" or control.startswith(f"{policy}-")


def _out_of_domain(run: Run, policies: Sequence[str]) -> tuple[list[int | None], list[str]]:
    parts: list[int | None] = []
    said = []
    for suite, metric in OUT_OF_DOMAIN.items():
        measured = run.policies_of(suite)
        for name in policies if "start" in measured else ():
            if name in measured:
                gap = paired_difference(run.rows(name, suite), run.rows("start", suite), metric)
                parts.append(direction(gap))
                said.append(f"{policy_label(name)} − start on {suite}: {estimate_text(gap, signed=True)} {metric}")
    return parts or [None], said


def _general(run: Run, analysis: Path) -> Claim:
    text = "General capability (MMLU, BBH, GSM8K, MATH, HumanEval, MBPP) does not degrade."
    rows = _read_csv(analysis / "general_retention.csv")
    pooled = [row for row in rows if row["task"] == POOLED]
    if not pooled:
        return Claim(4, text, NOT_TESTED, "", "The general suites were not run before and after training.")
    tasks = list(dict.fromkeys(row["task"] for row in rows if row["task"] != POOLED))
    lines = [
        f"{policy_label(row['policy'])}: mean of {len(tasks)} benchmarks {_signed(row['difference'], 1)} "
        f"[{_signed(row['difference_low'], 1)}, {_signed(row['difference_high'], 1)}] points, margin {_signed(row['margin'], 1)}"
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
        named = ", ".join(f"{policy_label(row['policy'])} on {row['task']}" for row in worse)
        lines.append(f"significantly worse (Holm): {named}")
        parts.append(-1)
    if len(tasks) < BENCHMARKS:
        lines.append(f"only {len(tasks)} of the six benchmarks were run")
        parts.append(None)
    if parts.count(0) == len(pooled):
        lines.append("too few problems to rule a loss out")
    return Claim(4, text, verdict(parts), _scope(run), "; ".join(lines) + ".")


def _lower_mlp(run: Run, analysis: Path) -> Claim:
    text = (
        "The gain comes from updates to lower-layer MLP parameters (layers 0-2), read as better context understanding."
    )
    restored = [
        row
        for row in _read_csv(analysis / "restore_layers.csv")
        if (row["mode"], row["group"]) == ("only", "lower MLP")
    ]
    gained = [
        row
        for row in restored
        if row["gain_low"] and float(row["gain_low"]) > 0 and row["share_low"] and row["lead_low"]
    ]
    if gained:
        lines = [
            f"{policy_label(row['policy'])}: the start with only the MLPs of {_tested_layers(row)} of the trained model has {100 * float(row['share']):.0f}% of the gain "
            f"[{100 * float(row['share_low']):.0f}, {100 * float(row['share_high']):.0f}], against the best other group "
            f"{_signed(row['lead'])} [{_signed(row['lead_low'])}, {_signed(row['lead_high'])}] in Solve-F1"
            for row in gained
        ]
        parts = [1 if float(row["lead_low"]) > 0 else -1 if float(row["lead_high"]) < 0 else 0 for row in gained]
        end = "" if any(parts) else ". Neither is significantly ahead"
        scope = _scope(run) + "; causal test by putting weights back"
        return Claim(5, text, verdict(parts), scope, "; ".join(lines) + end + ".")
    if restored:
        evidence = "Weights were put back group by group, but no trained policy has a significant gain to attribute."
        return Claim(5, text, NOT_TESTED, "", evidence)
    tests = [row for path in sorted(analysis.glob("parameter_tests_*.csv")) for row in _read_csv(path)]
    if not tests:
        return Claim(5, text, NOT_TESTED, "", "No pair of checkpoints was compared.")
    causal = "The weights were not put back group by group (analysis.restore_layers), and a heat map alone cannot show a cause."
    if not any(row["can_be_significant"] == "True" for row in tests):
        smallest = min(float(row["smallest_possible_p"]) for row in tests)
        few = f" Besides, the model has too few layers: the smallest p-value that the exact test can give is {smallest:.3f}."
        return Claim(5, text, NOT_TESTED, "", causal + few)
    significant = [row for row in tests if float(row["p_value"]) <= 0.05]
    lower = ", ".join(sorted({layers_text(int(row["lower_cells"])) for row in tests}))
    found = f" In the heat maps, {len(significant)} of {len(tests)} exact tests of 'the MLPs of {lower} change most' are significant."
    return Claim(5, text, NOT_TESTED, "", causal + found)


def _tested_layers(row: dict[str, str]) -> str:
    lower = row.get("lower_layers")
    return layers_text(int(lower)) if lower else "the lower layers (not recorded which)"


def _thinking(run: Run, analysis: Path) -> Claim:
    text = "Thinking mode of today's open models is not reliably better at tool use than non-thinking mode."
    rows = _read_csv(analysis / "thinking_modes.csv")
    if not rows:
        return Claim(
            6, text, NOT_TESTED, "", "The policy has no thinking mode, or only one of the modes was evaluated."
        )
    # "Not reliably" is about every model: one for which the gain is bounded by the margin is enough.
    gap = "solve_f1_thinking_minus_plain"
    pairs = [row for row in rows if row["scope"] == "all" and row.get(f"{gap}_low")]
    better = [row for row in pairs if float(row[f"{gap}_low"]) > 0]
    bounded = [row for row in pairs if float(row[f"{gap}_high"]) < MARGIN]
    evidence = "; ".join(
        f"{policy_label(row['policy'])}: thinking − plain {_signed(row[gap])} [{_signed(row[gap + '_low'])}, {_signed(row[gap + '_high'])}] Solve-F1"
        for row in pairs
    )
    if bounded:
        return Claim(
            6, text, REPRODUCED, _scope(run), f"{evidence}. Not better in {len(bounded)} of {len(pairs)} pairs."
        )
    if pairs and len(better) == len(pairs):
        return Claim(6, text, NOT_REPRODUCED, _scope(run), f"{evidence}. Significantly better in every pair.")
    if not pairs:
        return Claim(6, text, NOT_TESTED, "", "No pair with an interval.")
    return Claim(6, text, INCONCLUSIVE, _scope(run), f"{evidence}. Better in {len(better)} of {len(pairs)} pairs.")


def _signed(number: str, digits: int = 3) -> str:
    return f"{float(number):+.{digits}f}".replace("-", "−")


def _scope(run: Run) -> str:
    return "in small: a tiny CPU model" if run.is_tiny else f"on {run.model_label()}"


def claims(run: Run, analysis: Path) -> list[Claim]:
    """All six verdicts; `analysis` is the folder with the tables that `analysis.all` made."""
    return [
        _construction(run, analysis),
        _reward_balance(run),
        _training_gain(run),
        _general(run, analysis),
        _lower_mlp(run, analysis),
        _thinking(run, analysis),
    ]
