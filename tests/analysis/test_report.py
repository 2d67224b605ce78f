"""The report: verdicts follow the data, no transcript can break the page, the page fetches nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from analysis import construction_stability
from analysis.all import SCRIPTS, make_all
from analysis.all import main as make_all_main
from analysis.manifest import make_manifest, total_seconds
from analysis.report import found_sentence, heading, headline, read_table, render, script_json
from analysis.run_data.claims import claims
from analysis.run_data.intervals import EMPTY
from analysis.run_data.run_folder import Run
from analysis.run_data.trajectories import call_state, episode_view, viewer_data
from analysis.run_data.verdicts import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_TESTED,
    PARTLY,
    REPRODUCED,
    direction,
    verdict,
)
from env_construction.environment.jsonl import BadInput, read_jsonl, write_jsonl
from env_construction.environment.schema import read_environments, write_environments
from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox
from env_construction.validate import judge
from eval.suites.results import Estimate
from train.stages.policy_roles import Role, read_roles, write_roles

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def analysis(synthetic_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analysis")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["analysis.all", str(synthetic_run), "--out", str(folder)])
        assert make_all_main() == 0
    return folder


def copy_policies(synthetic_run: Path, target: Path, policies: dict[str, str]) -> Run:
    """A run in which each key of `policies` has the results of that policy's value in the synthetic run."""
    for policy, source in policies.items():
        shutil.copytree(synthetic_run / "eval" / source, target / "eval" / policy)
    write_roles(target, {policy: read_roles(synthetic_run)[policy] for policy in policies})
    return Run.open(target)


def test_all_writes_every_analysis_with_data_and_explains_the_missing_ones(analysis: Path) -> None:
    index = json.loads((analysis / "index.json").read_text())
    made, missing = (
        {entry["script"] for entry in index["made"]},
        {entry["script"]: entry["reason"] for entry in index["missing"]},
    )
    not_planned = {entry["script"]: entry["reason"] for entry in index["not_planned"]}
    assert missing == {}, "the run has results for every policy in policies.json"
    assert made | set(not_planned) == set(SCRIPTS) and not made & set(not_planned)
    assert set(not_planned) == {
        "training_seeds", "main_table", "thinking_modes", "general_retention", "restore_layers", "restore_elements",
    }  # fmt: skip
    assert all(len(reason) > 20 for reason in not_planned.values())
    for entry in index["made"]:
        assert all((analysis / name).stat().st_size > 0 for name in entry["files"])


def test_every_figure_has_all_formats_a_table_and_a_short_caption_with_source(analysis: Path) -> None:
    figures = sorted(analysis.glob("*.svg"))
    assert len(figures) >= 10
    for figure in figures:
        stem = figure.name.removesuffix(".svg")
        assert all((analysis / f"{stem}{suffix}").is_file() for suffix in (".png", ".pdf", ".csv", ".txt"))
        title, caption, note = (analysis / f"{stem}.txt").read_text().strip().split("\n\n")
        assert title and len(caption.split()) <= 40, f"{stem}: {len(caption.split())} words"
        assert "Source: " in note and "interval" in note.lower()
        assert re.search(r"\bn\b|steps", caption + note)


def test_text_in_pdf_figures_stays_text(analysis: Path) -> None:
    for figure in analysis.glob("*.pdf"):
        data = figure.read_bytes()
        assert data.startswith(b"%PDF") and b"/FontFile2" in data and b"/Type3" not in data, figure.name


def test_all_figures_have_the_same_width(analysis: Path) -> None:
    found = [re.search(r'<svg[^>]* width="([\d.]+)pt"', path.read_text()) for path in analysis.glob("*.svg")]
    assert len({match[1] for match in found if match}) == 1 and all(found)


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "action", "data"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def test_page_is_self_contained_and_its_links_resolve(synthetic_run: Path, analysis: Path) -> None:
    page = render(Run.open(synthetic_run), analysis)
    links = Links()
    links.feed(page)
    assert links.addresses and all(address.startswith(("#", "data:")) for address in links.addresses)
    assert all(address[1:] in links.ids for address in links.addresses if address.startswith("#"))
    assert len(links.ids) == len(set(links.ids))
    assert "@import" not in page and "url(http" not in page


def test_one_finding_of_several_policies_is_one_section_that_folds_all_but_the_first(
    synthetic_run: Path, analysis: Path
) -> None:
    titles = [entry["title"] for entry in json.loads((analysis / "index.json").read_text(encoding="utf-8"))["made"]]
    weights = [title for title in titles if re.fullmatch(r"Where the weights changed: [^,]*(, [^,]* reward)?", title)]
    assert len(weights) > 1
    page = render(Run.open(synthetic_run), analysis)
    assert [title for title in weights if f"<h2>{title}</h2>" in page] == weights[:1]
    assert [title for title in weights if f"<summary>{title}</summary>" in page] == weights[1:]


def test_page_states_that_the_model_is_tiny_and_which_numbers_are_the_papers(
    synthetic_run: Path, analysis: Path
) -> None:
    page = " ".join(render(Run.open(synthetic_run), analysis).split())
    assert "The models of this run (tiny) are small models trained on a CPU." in page
    assert "the paper's own (arXiv 2508.08791)" in page
    assert "demonstrations of mixed quality, on purpose" in page and "right 40%, early 60%" in page


def test_page_starts_with_the_main_finding_and_defines_its_terms(synthetic_run: Path, analysis: Path) -> None:
    run = Run.open(synthetic_run)
    page = " ".join(render(run, analysis).split())
    sentence = found_sentence(run)
    assert "GRPO improved tool use (Solve-F1 +" in sentence and "the share of correct answers" in sentence
    assert page.index(sentence.replace("+", "&#43;") if sentence not in page else sentence) < page.index("<h2>")
    table = page.index('<table class="sortable stacked">')
    for term in (
        "policy",
        "environment",
        "sub-questions",
        "Solve-P",
        "Solve-R",
        "Solve-F1",
        "Answer accuracy",
        "GRPO",
        "start",
        "control",
        "floor",
        "oracle",
    ):
        assert f"<dfn>{term}</dfn>" in page[:table]
    assert "Nothing is missing" in page


def test_first_sentence_reports_a_loss_of_correct_answers(synthetic_run: Path, tmp_path: Path) -> None:
    run = copy_policies(synthetic_run, tmp_path, {name: name for name in ("start", "grpo")})
    run = changed_rows(synthetic_run, run, "start", lambda i, row: {"answer_correct": True})
    run = changed_rows(synthetic_run, run, "grpo", lambda i, row: {"answer_correct": i % 2 == 0})
    sentence = found_sentence(run)
    assert "GRPO improved tool use" in sentence and "but lowered the share of correct answers" in sentence


def test_page_of_another_model_does_not_call_it_tiny(synthetic_run: Path, tmp_path: Path) -> None:
    run = copy_policies(synthetic_run, tmp_path, {"start": "start", "grpo": "grpo"})
    make_all(run, tmp_path / "analysis", ("results_table",))
    roles = {name: replace(role, model="qwen3-8b") for name, role in read_roles(tmp_path).items()}
    write_roles(tmp_path, roles)
    page = render(Run.open(run.path), tmp_path / "analysis")
    assert "small models" not in page and "Qwen3-8B" in page


def test_hostile_transcript_cannot_end_its_script_element() -> None:
    hostile = {"text": "</script><script>alert(1)</script><!-- \u2028 &"}
    shown = str(script_json(hostile))
    assert "<" not in shown and ">" not in shown and "\u2028" not in shown
    assert json.loads(shown) == hostile


def test_report_without_analysis_names_the_command_to_run_first(synthetic_run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"run `python -m analysis\.all"):
        render(Run.open(synthetic_run), tmp_path)


def test_table_joins_value_interval_and_n(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("policy,x,x_low,x_high,x_n,y,y_low,y_high,y_n,empty\na,-0.5,-1,0.25,9,1,0,2,7,\n")
    table = read_table(file)
    assert table.columns == ["Policy", "n", "X", "Y"]
    shown = [cell for cell, _ in table.rows[0]]
    assert shown == ["a", "9", "−0.500 [−1.000, 0.250]", "1.000 [0.000, 2.000] (n=7)"]
    assert table.rows[0][2][1] == "-0.5"


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("solve_f1_minus_start", "Solve-F1 − start"),
        ("answer_correct_thinking_minus_plain", "Answer accuracy, thinking − plain"),
        ("answer_correct_minus_full", "Answer accuracy − Solve-F1 reward"),
        ("solve_p_minus_start_over_seeds", "Solve-P − start, over seeds"),
        ("calls", "Calls per case"),
        ("solve_f1_p_holm", "Solve-F1, p (Holm)"),
        ("changed_share", "Share changed"),
        ("p_value", "p"),
        ("rejected_by_build", "Rejected by build"),
    ],
)
def test_headings_are_in_words(column: str, words: str) -> None:
    assert heading(column) == words


def test_differences_carry_their_sign_and_a_label_replaces_the_name(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(
        "policy,label,scope,x_minus_start,x_minus_start_low,x_minus_start_high,x_minus_start_n,x_p\n"
        "grpo,GRPO,multi_hop,0.1,-0.05,0.25,9,0.0004\n"
    )
    table = read_table(file)
    assert table.columns[0] == "Policy" and len(table.columns) == 5
    assert [cell for cell, _ in table.rows[0]] == ["GRPO", "Multi-hop", "9", "+0.100 [−0.050, +0.250]", "0.0004"]


def test_solve_p_is_a_score_not_a_p_value(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("policy,solve_p,solve_p_low,solve_p_high,solve_p_n,solve_p_p\na,0.64,0.5,0.75,9,0.03\n")
    assert [cell for cell, _ in read_table(file).rows[0]] == ["a", "9", "0.640 [0.500, 0.750]", "0.0300"]


def test_a_tool_that_returns_an_error_has_failed() -> None:
    assert call_state(None, "ok", '{"error": "no such city"}') == "failed"
    assert call_state(None, "ok", '{"error": null, "value": 3}') == call_state(None, "ok", "3") == "useless"


def test_table_shows_an_arrow_after_its_number(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("model,x,x_arrow,y\nours,12.5,↑,1\npaper,3,,2\n")
    table = read_table(file)
    assert table.columns == ["Model", "X", "Y"]
    assert [row[1] for row in table.rows] == [("12.5 ↑", "12.5"), ("3", "3")]


def test_table_shows_p_values_at_the_floor_as_bounds_and_missing_intervals_as_missing(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(
        "policy,turns,turns_low,turns_high,turns_n,x_p,x_p_at_floor\na,7,,,9,0.0007,True\nb,3.5,3,4,9,0.0312,False\n"
        "paper,5,,,,,\n"
    )
    table = read_table(file)
    assert table.columns == ["Policy", "n", "Turns", "X p"]
    assert [[cell for cell, _ in row[2:]] for row in table.rows] == [
        ["7 [n/a]", "< 0.0007"],
        ["3.500 [3.000, 4.000]", "0.0312"],
        ["5", ""],
    ]


def test_calls_are_solved_useless_or_failed() -> None:
    assert [call_state("x", "ok"), call_state(None, "ok"), call_state(None, "error"), call_state("x", "error")] == [
        "solved",
        "useless",
        "failed",
        "solved",
    ]


def test_viewer_pairs_turns_with_their_scores(synthetic_run: Path) -> None:
    run = Run.open(synthetic_run)
    data = viewer_data(run)
    assert len(data["environments"]) == data["of"] == 24
    assert {item["scenario"] for item in data["environments"][:4]} == set(
        data["environments"][i]["scenario"] for i in range(4)
    )
    assert len({item["scenario"] for item in data["environments"][:4]}) == 4
    for row in run.rows("grpo"):
        view = episode_view(row)
        assert [turn["reward"] for turn in view["turns"]] == [score["reward"] for score in row["turn_scores"]]
        solved = [call for turn in view["turns"] for call in turn["calls"] if call["state"] == "solved"]
        assert len(solved) == row["solved"]
        assert all(call["output"] for turn in view["turns"] for call in turn["calls"])


def test_viewer_limit_keeps_scenarios_in_equal_parts(synthetic_run: Path) -> None:
    data = viewer_data(Run.open(synthetic_run), limit=8)
    scenarios = [item["scenario"] for item in data["environments"]]
    assert len(scenarios) == 8 and all(scenarios.count(name) == 2 for name in set(scenarios))


def test_verdicts_of_the_synthetic_run(synthetic_run: Path, analysis: Path) -> None:
    found = {claim.number: claim for claim in claims(Run.open(synthetic_run), analysis)}
    assert {number: claim.verdict for number, claim in found.items()} == {
        1: PARTLY,
        2: PARTLY,  # two of the four rewards were not trained
        3: PARTLY,
        4: NOT_TESTED,
        5: NOT_TESTED,
        6: NOT_TESTED,
    }
    # Some synthetic environments contain their answer. The build would reject them, so they are not replayed.
    assert re.search(r"(\d+) built environments were .*: \1 behave as built; \d+ could not be", found[1].evidence)
    assert "as expected" in found[1].evidence
    assert "at small scale (tiny)" in found[3].scope and "in domain only" in found[3].scope
    assert "answer accuracy" in found[2].evidence and "answer accuracy" in found[3].evidence
    assert "a heat map alone cannot show a cause" in found[5].evidence
    assert "the MLPs of layers 0-2 change most" in found[5].evidence
    for measure in ("relative norm", "elementwise mean", "share changed"):
        assert re.search(rf"{measure} \d+ of \d+", found[5].evidence)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([1, 1], REPRODUCED),
        ([1, None], PARTLY),
        ([1, -1], PARTLY),
        ([1, 0], PARTLY),
        ([0, -1], NOT_REPRODUCED),
        ([-1, None], NOT_REPRODUCED),
        ([0, 0], INCONCLUSIVE),
        ([0, None], INCONCLUSIVE),
        ([None], NOT_TESTED),
        ([], NOT_TESTED),
    ],
)
def test_an_undecided_part_never_counts_as_refuted(parts: list[int | None], expected: str) -> None:
    assert verdict(parts) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.001, 0.4, 1), (-0.021, 0.046, 0), (-0.053, 0.016, 0), (-0.2, -0.1, -1), (-0.1, 0.005, -1), (0.0, 0.0, -1)],
)
def test_a_gain_is_refuted_only_by_an_interval_below_one_point(low: float, high: float, expected: int) -> None:
    assert direction(Estimate((low + high) / 2, low, high, 100)) == expected
    assert direction(EMPTY) is None


def changed_rows(
    synthetic_run: Path, run: Run, policy: str, change: Callable[[int, dict[str, Any]], dict[str, Any]]
) -> Run:
    """A run in which a policy's result rows are changed."""
    rows = [row for _, row in read_jsonl(synthetic_run / "eval" / policy / "results.jsonl")]
    write_jsonl(run.path / "eval" / policy / "results.jsonl", [row | change(i, row) for i, row in enumerate(rows)])
    return Run.open(run.path)


def many_cases(run: Run, copies: int = 12) -> Run:
    """The run with 12 copies of every case: 288, enough to rule out a difference of one point between equal scores."""
    for policy in run.policies:
        path = run.path / "eval" / policy / "results.jsonl"
        rows = [row for _, row in read_jsonl(path)]
        write_jsonl(path, [row | {"id": f"{row['id']}-{k}"} for k in range(copies) for row in rows])
    return Run.open(run.path)


def test_gain_that_a_control_matches_is_not_credited_to_the_reward(synthetic_run: Path, tmp_path: Path) -> None:
    policies = {"start": "start", "grpo": "grpo", "reinforce++": "reinforce++", "grpo-shuffled": "grpo"}
    claim = claims(many_cases(copy_policies(synthetic_run, tmp_path, policies)), tmp_path)[2]
    assert claim.verdict == PARTLY  # REINFORCE++ has no control here
    assert "a control does as well as GRPO" in claim.evidence


def test_oracle_demonstrations_are_an_upper_reference_and_no_rival(synthetic_run: Path, tmp_path: Path) -> None:
    names = {"start": "start", "grpo": "grpo", "reinforce++": "reinforce++"}
    run = copy_policies(synthetic_run, tmp_path, names)
    alone = claims(run, tmp_path)[2].verdict
    shutil.copytree(synthetic_run / "eval" / "oracle", tmp_path / "eval" / "oracle-demonstrations")
    demonstrated = Role("control", "tiny", "plain", "outputs/x", "start", control="oracle-demonstrations")
    write_roles(tmp_path, read_roles(tmp_path) | {"oracle-demonstrations": demonstrated})
    claim = claims(Run.open(tmp_path), tmp_path)[2]
    assert claim.verdict == alone == PARTLY  # no suite is out of domain here
    assert "a control" not in claim.evidence and "Oracle demonstrations − start" in claim.evidence


def test_gain_that_a_control_may_match_is_inconclusive_not_refuted(synthetic_run: Path, tmp_path: Path) -> None:
    policies = {"start": "start", "grpo": "grpo", "reinforce++": "grpo", "more-supervised": "grpo"}
    run = copy_policies(synthetic_run, tmp_path, policies)
    assert claims(run, tmp_path)[2].verdict == INCONCLUSIVE  # 24 cases are too few to show that the control is as good
    run = many_cases(run)
    assert claims(run, tmp_path)[2].verdict == NOT_REPRODUCED  # the control has the same scores
    path = tmp_path / "eval" / "more-supervised" / "results.jsonl"
    rows = [row for _, row in read_jsonl(path)]
    write_jsonl(path, [row | {"solve_f1": row["solve_f1"] + (0.3 if i % 2 else -0.32)} for i, row in enumerate(rows)])
    claim = claims(Run.open(tmp_path), tmp_path)[2]
    assert claim.verdict == INCONCLUSIVE and "not shown to be better than a control" in claim.evidence


def test_a_loss_of_correct_answers_limits_the_claim_to_partly(synthetic_run: Path, tmp_path: Path) -> None:
    run = copy_policies(synthetic_run, tmp_path, {name: name for name in ("start", "grpo", "reinforce++")})
    run = changed_rows(synthetic_run, run, "start", lambda i, row: {"answer_correct": True})
    run = changed_rows(synthetic_run, run, "grpo", lambda i, row: {"answer_correct": i % 2 == 0})
    claim = claims(run, tmp_path)[2]
    assert claim.verdict == PARTLY and "GRPO answers fewer questions correctly than its start" in claim.evidence
    line = next(line for line in headline(run) if line["policy"] == "GRPO")
    assert line["answer_correct"].startswith("0.500") and line["answer_correct_gap"].startswith("−0.500")


def test_no_gain_is_not_reproduced_and_a_gain_of_one_algorithm_is_partly(synthetic_run: Path, tmp_path: Path) -> None:
    for name, policies, expected in (
        ("none", {"start": "start", "grpo": "start", "reinforce++": "start"}, NOT_REPRODUCED),
        ("one", {"start": "start", "grpo": "start", "reinforce++": "reinforce++"}, PARTLY),
    ):
        (tmp_path / name).mkdir()
        run = copy_policies(synthetic_run, tmp_path / name, policies)
        assert claims(many_cases(run), tmp_path)[2].verdict == expected


def test_one_algorithm_alone_does_not_test_the_claim_about_two(synthetic_run: Path, tmp_path: Path) -> None:
    claim = claims(copy_policies(synthetic_run, tmp_path, {"start": "start", "grpo": "grpo"}), tmp_path)[2]
    assert claim.verdict == PARTLY and "REINFORCE++ was not trained" in claim.evidence


def test_out_of_domain_suites_are_parts_of_the_third_claim(synthetic_run: Path, tmp_path: Path) -> None:
    names = ("start", "grpo", "reinforce++")
    run = copy_policies(synthetic_run, tmp_path, {name: name for name in names})
    for name, correct in zip(names, (0, 1, 1), strict=True):
        folder = tmp_path / "eval" / name / "toolhop"
        write_jsonl(folder / "results.jsonl", [{"id": str(i), "trial": 0, "ac_published": correct} for i in range(30)])
        (folder / "summary.json").write_text("{}")
    claim = claims(Run.open(run.path), tmp_path)[2]
    assert claim.verdict == REPRODUCED
    assert "GRPO − start on toolhop: answer correctness +1.000 [+0.773, +1.000]" in claim.evidence


def test_a_suite_on_which_nobody_scores_is_no_evidence(synthetic_run: Path, tmp_path: Path) -> None:
    names = ("start", "grpo", "reinforce++")
    run = copy_policies(synthetic_run, tmp_path, {name: name for name in names})
    for name in names:
        folder = tmp_path / "eval" / name / "toolhop"
        write_jsonl(folder / "results.jsonl", [{"id": str(i), "trial": 0, "ac_published": 0} for i in range(30)])
        (folder / "summary.json").write_text("{}")
    claim = claims(Run.open(run.path), tmp_path)[2]
    assert claim.verdict == PARTLY
    assert "GRPO and its start score 0 on toolhop" in claim.evidence and "+0.000" not in claim.evidence


@pytest.mark.parametrize(
    ("unstable", "expected", "words"),
    [
        (0, REPRODUCED, "300 behave as built"),
        (3, PARTLY, "297 behave as built (test: gold_plan_runs 3)"),
        (90, NOT_REPRODUCED, "210 behave as built"),
    ],
)
def test_the_replay_decides_the_first_claim(
    synthetic_run: Path, tmp_path: Path, unstable: int, expected: str, words: str
) -> None:
    broken = f"gold_plan_runs {unstable}" if unstable else ""
    (tmp_path / "construction_stability.csv").write_text(
        f"split,replayed,unstable,not_replayed,rules_broken\ntrain,200,0,0,\ntest,100,{unstable},0,{broken}\n"
    )
    claim = claims(Run.open(synthetic_run), tmp_path)[0]
    assert claim.verdict == expected and words in claim.evidence


def test_an_oracle_alone_proves_nothing_but_a_score_below_one_refutes_the_first_claim(
    synthetic_run: Path, tmp_path: Path
) -> None:
    for name, expected in (("oracle", NOT_TESTED), ("grpo", NOT_REPRODUCED)):
        (tmp_path / name).mkdir()
        claim = claims(copy_policies(synthetic_run, tmp_path / name, {"oracle": name}), tmp_path / name)[0]
        assert claim.verdict == expected


def test_an_environment_that_no_longer_behaves_as_built_is_counted(synthetic_run: Path, tmp_path: Path) -> None:
    environments = read_environments(synthetic_run / "environments" / "test.jsonl")
    first, *rest = environments
    codes = first.codes | {"capital_of": "def capital_of(country):\n    return {'capital': 'Atlantis'}\n"}
    write_environments(tmp_path / "environments" / "test.jsonl", [first.model_copy(update={"codes": codes}), *rest])
    (artifact,) = construction_stability.build(Run.open(tmp_path))
    whole = next(row for row in construction_stability.build(Run.open(synthetic_run))[0].rows if row["split"] == "test")
    [row] = artifact.rows
    assert row["replayed"] == whole["replayed"] >= 6 and row["replayed"] + row["not_replayed"] == 24
    assert (whole["unstable"], row["unstable"]) == (0, 1) and "gold_plan_answers 1" in row["rules_broken"]
    assert row["stable_low"] < row["stable"] < row["stable_high"] < 1
    assert artifact.caption.startswith(f"{row['replayed'] - 1} of {row['replayed']} built environments")
    assert f"{row['not_replayed']} more could not be replayed" in artifact.note


def test_a_tool_that_depends_on_set_order_is_found(synthetic_run: Path, tmp_path: Path) -> None:
    """The build cannot find this because it uses one hash seed. The replay uses another."""
    source = next(
        item for item in read_environments(synthetic_run / "environments" / "test.jsonl") if item.id == "single_hop-0"
    )
    names = [f"city{number}" for number in range(50)]
    body = f"def capital_of(country):\n    return {{'capital': next(iter(set({names!r})))}}\n"
    with ToolSandbox() as sandbox:
        [result] = sandbox.run({"capital_of": body}, [ToolCall("capital_of", {"country": "Peru"})])
    answer = json.loads(result.output)["capital"]
    question = source.sub_questions[0].model_copy(update={"answer": answer})
    changed = {"codes": source.codes | {"capital_of": body}, "unsolved_set": {"capital_of": [answer]}, "answer": answer}
    path = tmp_path / "environments" / "test.jsonl"
    write_environments(path, [source.model_copy(update=changed | {"sub_questions": [question]})])
    broken = [
        {found.rule for _, _, findings in judge(path, seed) for found in findings if found.fatal} for seed in (0, 1)
    ]
    assert "gold_plan_answers" not in broken[0] and "gold_plan_answers" in broken[1]


@pytest.mark.parametrize(
    ("gain_low", "lead", "expected", "words"),
    [
        (
            "0.1",
            "0.2,0.1,0.3",
            REPRODUCED,
            "only the MLPs of layers 0-2 from the trained model has 80% of the gain [60, 100]",
        ),
        ("0.1", "−0.2,−0.3,−0.1", NOT_REPRODUCED, "80% of the gain"),
        ("0.1", "0.1,−0.1,0.3", INCONCLUSIVE, "The intervals are too wide to decide"),
        ("−0.1", "0.2,0.1,0.3", NOT_TESTED, "no trained policy has a significant gain"),
    ],
)
def test_restored_weights_decide_the_fifth_claim(
    synthetic_run: Path, tmp_path: Path, gain_low: str, lead: str, expected: str, words: str
) -> None:
    header = "policy,mode,group,lower_layers,gain_low,share,share_low,share_high,lead,lead_low,lead_high\n"
    line = f"grpo,only,lower MLP,3,{gain_low},0.8,0.6,1.0,{lead}\n".replace("−", "-")
    (tmp_path / "restore_layers.csv").write_text(header + line)
    claim = claims(Run.open(synthetic_run), tmp_path)[4]
    assert claim.verdict == expected and words in claim.evidence


def write_retention(folder: Path, pooled: str, tasks: Sequence[str], worse: str = "") -> None:
    """`pooled` is non_inferior,difference_high; the task `worse` has a significant loss."""
    lines = ["policy,task,difference,difference_low,difference_high,difference_p_holm,margin,non_inferior"]
    for task in tasks:
        lines.append(f"grpo,{task},-6,-9,-3,0.001,-1,False" if task == worse else f"grpo,{task},-1,-4,2,1.0,-1,False")
    kept, high = pooled.split(",")
    (folder / "general_retention.csv").write_text("\n".join([*lines, f"grpo,all,-0.2,-4,{high},,-1.5,{kept}", ""]))


SIX = ("mmlu", "bbh", "gsm8k", "math", "humaneval", "mbpp")


@pytest.mark.parametrize(
    ("pooled", "tasks", "worse", "expected", "words"),
    [
        ("True,0.8", SIX, "", REPRODUCED, "GRPO: mean change on 6 benchmarks −0.2 [−4.0, +0.8] points, margin −1.5"),
        ("True,0.8", SIX, "mbpp", PARTLY, "significantly worse (Holm): GRPO on mbpp"),
        ("False,0.8", SIX, "", INCONCLUSIVE, "too few problems to rule out a loss"),
        ("False,0.8", SIX, "mmlu", NOT_REPRODUCED, "significantly worse (Holm): GRPO on mmlu"),
        ("False,-2.0", SIX, "", NOT_REPRODUCED, "margin −1.5"),
        ("True,0.8", SIX[:5], "", PARTLY, "only 5 of the six benchmarks"),
    ],
)
def test_the_pooled_test_and_holm_corrected_losses_decide_retention(
    synthetic_run: Path, tmp_path: Path, pooled: str, tasks: Sequence[str], worse: str, expected: str, words: str
) -> None:
    write_retention(tmp_path, pooled, tasks, worse)
    claim = claims(Run.open(synthetic_run), tmp_path)[3]
    assert claim.verdict == expected and words in claim.evidence


@pytest.mark.parametrize(
    ("interval", "verdict", "words"),
    [
        ("-0.2,-0.3,-0.1", REPRODUCED, "thinking − plain: Solve-F1 −0.200 [−0.300, −0.100]"),
        ("0.2,0.1,0.3", NOT_REPRODUCED, "Significantly better in every pair"),
        ("0.0,-0.2,0.2", INCONCLUSIVE, "Better in 0 of 1 pairs"),
    ],
)
def test_intervals_over_all_scenarios_decide_the_thinking_claim(
    synthetic_run: Path, tmp_path: Path, interval: str, verdict: str, words: str
) -> None:
    gap = "solve_f1_thinking_minus_plain"
    (tmp_path / "thinking_modes.csv").write_text(
        f"policy,label,trained,scope,{gap},{gap}_low,{gap}_high\n"
        f"start,Start,False,all,{interval}\n"
        "start,Start,False,multi_hop,0.5,0.4,0.6\n"
    )
    claim = claims(Run.open(synthetic_run), tmp_path)[5]
    assert claim.verdict == verdict and words in claim.evidence


def test_manifest_adds_up_stages_and_finds_seeds(synthetic_run: Path, tmp_path: Path) -> None:
    run = copy_policies(synthetic_run, tmp_path, {"start": "start"})
    (tmp_path / "configuration.json").write_text(json.dumps({"seed": 4, "train": {"rl_seed": 5}}))
    write_jsonl(
        tmp_path / "stages.jsonl",
        [{"stage": "build", "seconds": 1.5}, {"stage": "train", "seconds": 10}, {"stage": "build", "seconds": 2}],
    )
    manifest = make_manifest(run, {"profile": "cpu"})
    assert [(stage["stage"], stage["seconds"], stage["calls"]) for stage in manifest["stages"]] == [
        ("build", 3.5, 2),
        ("train", 10, 1),
    ]
    assert manifest["seconds"] == 13.5
    assert manifest["seeds"] == {"configuration.seed": 4, "configuration.train.rl_seed": 5}
    assert manifest["configuration"]["profile"] == "cpu" and "numpy" in manifest["versions"]


def test_time_of_overlapping_stages_counts_once() -> None:
    rows = [
        {"seconds": 100.0, "finished": "2026-01-01T00:10:00Z"},
        {"seconds": 120.0, "finished": "2026-01-01T00:11:00Z"},  # overlaps the first one by 60 s
        {"seconds": 30.0, "finished": "2026-01-01T00:20:00Z"},
        {"seconds": 2.5},
    ]
    assert total_seconds(rows) == 160 + 30 + 2.5


def test_manifest_refuses_non_numeric_seconds(synthetic_run: Path, tmp_path: Path) -> None:
    run = copy_policies(synthetic_run, tmp_path, {"start": "start"})
    write_jsonl(tmp_path / "stages.jsonl", [{"stage": "build", "seconds": "long"}])
    with pytest.raises(BadInput, match=r"stages\.jsonl:1: key 'seconds'"):
        make_manifest(run)


def test_commands_write_report_and_manifest(
    synthetic_run: Path, analysis: Path, run_script: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(synthetic_run, run)
    shutil.copytree(analysis, run / "analysis")
    command = [sys.executable, "-m", "analysis.manifest", str(run)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=120)
    assert run_script("analysis.report", run).returncode == 0
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert "configuration" in json.loads((run / "manifest.json").read_text())


@pytest.mark.parametrize("module", ["results_table", "report", "manifest", "all", "restore_layers"])
def test_wrong_folder_prints_one_error_line_and_exits_with_2(module: str, run_script: Any, tmp_path: Path) -> None:
    done = run_script(f"analysis.{module}", tmp_path / "absent")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(errors) == 1 and "absent: no such folder" in errors[0]
