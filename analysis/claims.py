"""The paper's six claims, each with the verdict that this run's data allow, and the evidence.

A verdict is `reproduced`, `not reproduced` or `not tested` (also where the data are too few to tell, which the evidence then says); `scope` says how far it reaches. A tiny model can show that the
method works as described; it says nothing about the size of the effect on the paper's models.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from analysis.intervals import estimate_text, paired_difference
from analysis.run_folder import ABLATIONS, Run, is_control, policy_label
from analysis.training_seeds import pooled_rows

REPRODUCED, NOT_REPRODUCED, NOT_TESTED = "reproduced", "not reproduced", "not tested"
MARGIN = 0.01  # one point: a smaller difference between modes, or loss of capability, does not count


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


def _construction(run: Run) -> Claim:
    text = "A five-stage pipeline builds stable tool environments automatically, with no online tool behind them."
    counts = {split: len(run.environments(split)) for split in ("train", "dev", "test")}
    total = sum(counts.values())
    if not total or "oracle" not in run.policies:
        return Claim(1, text, NOT_TESTED, "", "No built environments with an oracle evaluation are in this run.")
    rows = run.rows("oracle")
    perfect = sum(float(row["solve_f1"]) == 1.0 for row in rows)
    built = ", ".join(f"{count} {split}" for split, count in counts.items() if count)
    evidence = f"{built} environments; the gold plan, played in the sandbox, scores Solve-F1 = 1 on {perfect} of {len(rows)} test environments."
    verdict = REPRODUCED if perfect == len(rows) else NOT_REPRODUCED
    return Claim(1, text, verdict, "with the fact author, not with an LLM as author", evidence)


def _reward_balance(run: Run) -> Claim:
    text = "A verifiable reward, computed from the environment alone, balances precision of tool use and completeness."
    bases = [name for name in run.trained if any(f"{name}-{variant}" in run.policies for variant in ABLATIONS)]
    if not bases:
        return Claim(2, text, NOT_TESTED, "", "The four rewards were not trained side by side in this run.")
    lines, holds = [], True
    for base in bases:
        found = {variant: f"{base}-{variant}" for variant in ABLATIONS if f"{base}-{variant}" in run.policies}
        for variant, policy in found.items():
            gap = paired_difference(run.rows(base), run.rows(policy), "solve_f1")
            lines.append(
                f"Solve-F1 reward against {ABLATIONS[variant]} ({policy_label(base)}): {estimate_text(gap, signed=True)} in Solve-F1"
            )
            holds &= gap.low is not None and gap.low > 0
    return Claim(
        2,
        text,
        REPRODUCED if holds else NOT_REPRODUCED,
        _scope(run),
        "; ".join(lines) + f"; n = {len(run.rows(bases[0]))}.",
    )


def _training_gain(run: Run) -> Claim:
    text = "With it, GRPO and REINFORCE++ both improve tool use, in domain and out of domain, by about 10 points on average."
    main = [name for name in ("grpo", "reinforce++") if name in run.trained]
    if "start" not in run.policies or not main:
        return Claim(3, text, NOT_TESTED, "", "No trained policy was evaluated beside its start.")
    repeats = {name: list(run.training_seeds()[name].values()) for name in main}
    gaps = {name: paired_difference(pooled_rows(run, repeats[name]), run.rows("start"), "solve_f1") for name in main}
    evidence = "; ".join(
        f"{policy_label(name)} − start: {estimate_text(gap, signed=True)} Solve-F1" for name, gap in gaps.items()
    )
    held = True
    for name in (policy for policy in run.policies if is_control(policy)):
        gap = paired_difference(run.rows(name), run.rows("start"), "solve_f1")
        evidence += f"; control {policy_label(name)} − start: {estimate_text(gap, signed=True)}"
        # A control that gains as much as the reward shows that the gain is not the reward's.
        rivals = [policy for policy in main if name == "more-supervised" or name.startswith(f"{policy}-")]
        for policy in rivals:
            lead = paired_difference(run.rows(policy), run.rows(name), "solve_f1")
            held &= lead.low is not None and lead.low > 0
    gained = all(gap.low is not None and gap.low > 0 for gap in gaps.values())
    n = len({row["id"] for row in run.rows("start")})
    note = f". Paired over n = {n} test environments, 95% intervals"
    if not held:
        note += "; a control does as well, so the gain is not shown to come from the reward"
    if len(main) < 2:
        note += f"; only {policy_label(main[0])} was trained"
    verdict = NOT_REPRODUCED if not (gained and held) else REPRODUCED if len(main) == 2 else NOT_TESTED
    seeds = min(len(run.training_seeds().get(name, {})) for name in main)
    scope = _scope(run) + f"; in domain only, {'one seed' if seeds == 1 else f'{seeds} seeds'} each"
    return Claim(3, text, verdict, scope, evidence + note + ".")


def _general(run: Run, analysis: Path) -> Claim:
    text = "General capability (MMLU, BBH, GSM8K, MATH, HumanEval, MBPP) does not degrade."
    rows = _read_csv(analysis / "general_retention.csv")
    if not rows:
        return Claim(
            4, text, NOT_TESTED, "", "The general suites were not run (a tiny model has no general capability to lose)."
        )
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    kept = [row for row in rows if row["non_inferior"] == "True"]
    worse = [row for row in rows if float(row["difference_high"]) < 0]
    evidence = f"{len(kept)} of {len(rows)} comparisons ({', '.join(tasks)}) are non-inferior with a margin of 1 point"
    if worse:
        named = ", ".join(f"{policy_label(row['policy'])} on {row['task']}" for row in worse)
        return Claim(4, text, NOT_REPRODUCED, _scope(run), f"{evidence}; significantly worse: {named}.")
    if len(kept) < len(rows):
        evidence += ". None is significantly worse, but the others have too few problems to rule a loss of 1 point out"
        return Claim(4, text, NOT_TESTED, _scope(run), evidence + ": inconclusive.")
    part = f"; only {len(tasks)} of the six benchmarks were run" if len(tasks) < 6 else ""
    return Claim(4, text, REPRODUCED if not part else NOT_TESTED, _scope(run), evidence + part + ".")


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
        row for row in restored if row["gain_low"] and float(row["gain_low"]) > 0 and row["share"] and row["lead"]
    ]
    if gained:
        lines = [
            f"{policy_label(row['policy'])}: the start with only the lower MLPs of the trained model has {100 * float(row['share']):.0f}% of the gain "
            f"[{100 * float(row['share_low']):.0f}, {100 * float(row['share_high']):.0f}], against the best other group "
            f"{_signed(row['lead'])} [{_signed(row['lead_low'])}, {_signed(row['lead_high'])}] in Solve-F1"
            for row in gained
        ]
        lead = all(float(row["lead_low"]) > 0 for row in gained)
        behind = any(float(row["lead_high"]) < 0 for row in gained)
        verdict = REPRODUCED if lead else NOT_REPRODUCED if behind else NOT_TESTED
        end = "." if lead or behind else ". That is inconclusive: neither is significantly ahead."
        scope = _scope(run) + "; causal test by putting weights back"
        return Claim(5, text, verdict, scope, "; ".join(lines) + end)
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
    found = f" In the heat maps, {len(significant)} of {len(tests)} exact tests of 'the lowest MLPs change most' are significant."
    return Claim(5, text, NOT_TESTED, "", causal + found)


def _thinking(run: Run, analysis: Path) -> Claim:
    text = "Thinking mode of today's open models is not reliably better at tool use than non-thinking mode."
    rows = _read_csv(analysis / "thinking_modes.csv")
    if not rows:
        return Claim(
            6, text, NOT_TESTED, "", "The policy has no thinking mode, or only one of the modes was evaluated."
        )
    # "Not reliably" is about every model: one for which the gain is bounded by the margin of claim 4 is enough.
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
    return Claim(6, text, NOT_TESTED, _scope(run), f"{evidence or 'No pair with an interval'}: inconclusive.")


def _signed(number: str) -> str:
    return f"{float(number):+.3f}".replace("-", "−")


def _scope(run: Run) -> str:
    return "in small: a tiny CPU model" if run.is_tiny else f"on {run.model_label()}"


def claims(run: Run, analysis: Path) -> list[Claim]:
    """All six verdicts; `analysis` is the folder with the tables that `analysis.all` made."""
    return [
        _construction(run),
        _reward_balance(run),
        _training_gain(run),
        _general(run, analysis),
        _lower_mlp(run, analysis),
        _thinking(run, analysis),
    ]
