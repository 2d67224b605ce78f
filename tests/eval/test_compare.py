"""Paired comparison: known differences and p-values, Holm, and a decomposition that adds up to the gain."""

import itertools
import json
import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, ttest_rel

from env_construction.environment.jsonl import BadInput
from eval import compare as script
from eval.compare import COUNTS, compare, comparison_text, decompose, paired_difference
from eval.statistics.estimates import add_holm, holm, p_text
from eval.statistics.intervals import bootstrap_p
from eval.statistics.paired import tango
from eval.suites.results import GroupedMean


def rows_of(values: list[Any], column: str = "x") -> list[dict[str, Any]]:
    return [{"id": str(i), "trial": 0, column: value} for i, value in enumerate(values)]


def counted(calls: int, parsed: int, malformed: int, needed: int, solved: int, n: int) -> dict[str, int]:
    return dict(zip(COUNTS, (calls, parsed, malformed, needed, solved, n), strict=True))


def test_pairing_removes_the_spread_between_cases() -> None:
    generator = np.random.default_rng(0)
    base = generator.uniform(0, 1, 60)
    after = base + generator.normal(0.05, 0.02, 60)
    found = paired_difference(rows_of(base.tolist()), rows_of(after.tolist()), "x")
    assert found is not None
    assert found["difference"] == pytest.approx(np.mean(after - base))
    assert 0.04 < found["low"] < found["difference"] < found["high"] < 0.06
    assert found["p"] < 0.001
    assert found["smallest_resolvable"] < 0.01


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.08])
def test_p_value_is_close_to_the_paired_t_test(shift) -> None:
    generator = np.random.default_rng(5)
    a = generator.normal(0.5, 0.1, 100)
    b = a + generator.normal(shift, 0.2, 100)
    found = paired_difference(rows_of(a.tolist()), rows_of(b.tolist()), "x")
    assert found is not None
    assert found["p"] == pytest.approx(ttest_rel(b, a).pvalue, abs=0.03)
    assert (found["p"] < 0.05) == (found["low"] > 0 or found["high"] < 0)


def test_p_values_under_no_difference_are_rarely_small() -> None:
    generator = np.random.default_rng(2)
    small = 0
    for _ in range(60):
        a, b = generator.uniform(0, 1, (2, 40))
        found = paired_difference(rows_of(a.tolist()), rows_of(b.tolist()), "x")
        assert found is not None
        small += found["p"] < 0.05
    assert small <= 9


def test_yes_no_values_are_tested_by_mcnemar_and_get_tangos_interval() -> None:
    before = [True] * 10 + [False] * 12 + [True] * 2
    after = [True] * 10 + [False] * 2 + [True] * 10 + [False] * 2
    found = paired_difference(rows_of(before), rows_of(after), "x")
    assert found is not None
    # 10 gained, 2 lost: chi squared of 64 / 12 with one degree of freedom
    assert found["p"] == pytest.approx(chi2.sf(64 / 12, 1)) == pytest.approx(0.0209, abs=1e-4)
    assert (found["low"], found["high"]) == pytest.approx(tango(10, 2, 24))
    assert found["test"] == "mcnemar"


def test_results_that_do_not_differ_at_all_have_an_interval_with_a_width_but_for_costs() -> None:
    for values in ([1.0] * 20, [0.0] * 20, [0.3] * 20, [0.2, 0.4] * 10):
        found = paired_difference(rows_of(values), rows_of(values), "x")
        assert found is not None
        assert found["low"] == pytest.approx(-found["high"]) and found["high"] > 0.1 and found["p"] == 1.0
    found = paired_difference(rows_of([3] * 20, "calls"), rows_of([2] * 20, "calls"), "calls")
    assert found is not None
    assert (found["difference"], found["low"], found["high"], found["p"]) == (-1.0, None, None, None)
    result = compare(rows_of([3] * 20, "calls"), rows_of([2] * 20, "calls"), family=["calls"])
    assert "[n/a]" in comparison_text(result) and "p_holm" not in result["metrics"]["calls"]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_p_is_below_5_percent_exactly_if_the_interval_excludes_0(data) -> None:
    """For all kinds of values: yes/no, graded, costs, few cases or many, groups or none."""
    one = data.draw(st.sampled_from([st.booleans(), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 4)]))
    chance = np.random.default_rng(data.draw(st.integers(0, 99)))
    n, shift = data.draw(st.integers(1, 60)), data.draw(st.floats(0, 1))
    before = data.draw(st.lists(one, min_size=n, max_size=n))
    after = [max(before) if chance.random() < shift * chance.random() else value for value in before]
    column = "calls" if isinstance(before[0], int) and not isinstance(before[0], bool) else "x"
    sides = [[{**row, "level": str(i % 3)} for i, row in enumerate(rows_of(v, column))] for v in (before, after)]
    for metric in (column, GroupedMean("m", column, "level")):
        found = paired_difference(sides[0], sides[1], metric)
        assert found is not None
        if found["low"] is None:
            continue
        assert found["low"] < found["high"]
        outside = found["low"] > 1e-9 or found["high"] < -1e-9
        assert (found["p"] < 0.05) == outside or found["p"] == pytest.approx(0.05, abs=1e-3)


def test_p_values_at_the_floor_of_resampling_are_printed_as_bounds() -> None:
    generator = np.random.default_rng(0)
    a = generator.uniform(0, 0.4, 40)
    result = compare(rows_of(a.tolist()), rows_of((a + generator.uniform(0.4, 0.6, 40)).tolist()), family=["x"])
    item = result["metrics"]["x"]
    assert item["p"] == item["p_holm"] == bootstrap_p(np.ones(10_000), 40)  # no resampled mean is below 0
    assert item["p_at_floor"] and item["p_holm_at_floor"] and 0.0002 < item["p"] < 0.001
    assert comparison_text(result).count(f"< {item['p']:.4f}") == 2
    assert p_text(1e-9) == "< 0.0001" and p_text(0.04) == "0.0400" and p_text(None) == "n/a"
    assert p_text(0.0008, at_floor=True) == "< 0.0008"


def test_a_correction_that_rests_on_a_test_at_the_floor_says_so() -> None:
    family = [{"p": 0.0002, "p_at_floor": True}, {"p": 0.00021, "p_at_floor": False}, {"p": 0.5, "p_at_floor": False}]
    add_holm([*family, {"p": None, "p_at_floor": False}])
    assert [item["p_holm"] for item in family] == pytest.approx([0.0006, 0.0006, 0.5])
    assert [item["p_holm_at_floor"] for item in family] == [True, True, False]


def test_holm_covers_the_headlines_but_not_the_costs(monkeypatch, tmp_path, capsys) -> None:
    generator = np.random.default_rng(1)
    for name, gain in (("a", 0.0), ("b", 0.1)):
        (tmp_path / name).mkdir()
        rows = [
            {
                "id": str(i),
                "solve_f1": x / 2 + gain,
                "answer_correct": bool(x > 0.6 - gain),
                "solve_p": x,
                "turns": i % 7,
            }
            for i, x in enumerate(generator.uniform(0, 1, 40))
        ]
        (tmp_path / name / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / name / "summary.json").write_text('{"suite": "environments"}')
    out = tmp_path / "c.json"
    command = ["compare", str(tmp_path / "a"), str(tmp_path / "b" / "results.jsonl"), "--out", str(out)]
    for flags, family in (
        ([], ["solve_f1", "answer_correct"]),
        (["--metrics", "turns", "solve_p"], ["turns", "solve_p"]),
    ):
        monkeypatch.setattr(sys, "argv", [*command, *flags])
        assert script.main() == 0
        found = json.loads(out.read_text())
        assert found["holm_family"] == family
        assert {name for name, item in found["metrics"].items() if "p_holm" in item} == set(family)
        wanted = holm([found["metrics"][name]["p"] for name in family])
        assert [found["metrics"][name]["p_holm"] for name in family] == wanted
        assert f"Holm's correction covers {', '.join(family)}" in capsys.readouterr().out
    (tmp_path / "b" / "summary.json").write_text('{"suite": "bfcl"}')
    monkeypatch.setattr(sys, "argv", command)
    assert script.main() == 0
    assert "p-values are not corrected" in capsys.readouterr().out


def test_repeated_trials_are_averaged_and_not_tested_as_yes_no() -> None:
    a = [{"id": str(i), "trial": t, "x": False} for i in range(8) for t in range(2)]
    b = [{"id": str(i), "trial": t, "x": t == 0} for i in range(8) for t in range(2)]
    found = paired_difference(a, b, "x")
    assert found is not None
    assert (found["difference"], found["n"], found["test"]) == (0.5, 8, "pseudo_cases")


def test_holm_of_a_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_and_keeps_the_order(p_values) -> None:
    adjusted = holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, adjusted, strict=True))
    for (p, a), (q, b) in itertools.combinations(zip(p_values, adjusted, strict=True), 2):
        assert p == q or (p < q) == (a <= b) or a == b


@st.composite
def counts(draw: st.DrawFn, strict: bool) -> dict[str, int]:
    parsed, malformed = draw(st.integers(0, 9)), draw(st.integers(0, 4))
    needed = draw(st.integers(0, parsed))
    n = draw(st.integers(1, 6))
    solved = draw(st.integers(0, min(needed, n)))
    added = draw(st.integers(0, solved)) * strict  # a call that solves two sub-questions counts twice
    return counted(parsed + malformed * strict + added, parsed, malformed, needed, solved, n)


def solve_f1(row: dict[str, Any]) -> float:
    return 2 * row["solved"] / (row["calls"] + row["sub_questions"])


@settings(deadline=None, max_examples=60)
@given(
    st.booleans().flatmap(
        lambda s: st.lists(
            st.tuples(st.lists(counts(s), min_size=1, max_size=3), st.lists(counts(s), min_size=1, max_size=3)),
            min_size=1,
            max_size=5,
        )
    )
)
def test_shares_add_up_to_the_difference_in_solve_f1_that_the_tables_show(cases) -> None:
    """For any counts and any number of trials on either side."""
    sides: list[list[dict[str, Any]]] = [[], []]
    for number, trials in enumerate(cases):
        for side, rows in zip(sides, trials, strict=True):
            for trial, row in enumerate(rows):
                n = trials[0][0]["sub_questions"]
                row = row | {"sub_questions": n, "solved": min(row["solved"], n)}
                side.append({"id": str(number), "trial": trial, **row, "solve_f1": solve_f1(row)})
    found, shown = decompose(*sides), paired_difference(*sides, "solve_f1")
    assert found is not None and shown is not None
    assert sum(share["value"] for share in found["shares"].values()) == pytest.approx(shown["difference"], abs=1e-9)
    total = found["solve_f1_gain"]
    wanted = (shown["difference"], shown["low"], shown["high"])
    assert (total["value"], total["low"], total["high"]) == pytest.approx(wanted, abs=1e-9)


def test_an_episode_with_many_calls_has_no_extra_weight() -> None:
    """Totals over all calls would be dominated by the one long episode, with the opposite sign."""
    before = [{"id": "short", **counted(1, 1, 0, 0, 0, 1)}, {"id": "long", **counted(40, 40, 0, 8, 8, 8)}]
    after = [{"id": "short", **counted(1, 1, 0, 1, 1, 1)}, {"id": "long", **counted(60, 60, 0, 6, 6, 8)}]
    found = decompose(before, after)
    assert found is not None
    assert found["solve_f1_gain"]["value"] == pytest.approx((1 + 12 / 68 - 16 / 48) / 2)


def test_gain_of_a_case_without_attempts_goes_to_the_attempts() -> None:
    found = decompose([{"id": "a", **counted(0, 0, 0, 0, 0, 2)}], [{"id": "a", **counted(4, 3, 1, 2, 2, 2)}])
    assert found is not None
    shares = {name: share["value"] for name, share in found["shares"].items()}
    assert shares == {"attempts": pytest.approx(4 / 6), "format": 0.0, "tool": 0.0, "argument": 0.0}


@pytest.mark.parametrize(
    ("before", "after", "factor"),
    [
        (counted(6, 6, 4, 6, 3, 8), counted(10, 10, 0, 10, 5, 8), "format"),
        (counted(10, 10, 0, 5, 4, 8), counted(10, 10, 0, 10, 8, 8), "tool"),
        (counted(10, 10, 0, 10, 2, 8), counted(10, 10, 0, 10, 8, 8), "argument"),
        (counted(5, 5, 0, 5, 4, 8), counted(10, 10, 0, 10, 8, 8), "attempts"),
    ],
)
def test_gain_in_one_factor_goes_to_that_factor_alone(before, after, factor) -> None:
    found = decompose([{"id": "a", **before}], [{"id": "a", **after}])
    assert found is not None
    gain = found["solve_f1_gain"]["value"]
    assert gain > 0.1
    for name, share in found["shares"].items():
        assert share["value"] == pytest.approx(gain if name == factor else 0.0, abs=1e-9)


def test_a_call_that_solves_two_sub_questions_counts_twice_in_strict() -> None:
    found = decompose([{"id": "a", **counted(2, 2, 0, 2, 1, 2)}], [{"id": "a", **counted(2, 1, 0, 1, 2, 2)}])
    assert found is not None
    assert found["solve_f1_gain"]["value"] == pytest.approx(1.0 - 0.5)
    assert sum(share["value"] for share in found["shares"].values()) == pytest.approx(0.5)


def test_rows_without_counts_have_no_decomposition() -> None:
    assert compare(rows_of([0.0, 1.0]), rows_of([1.0, 1.0]))["decomposition"] is None


def test_cases_of_one_side_and_faults_are_excluded_and_counted() -> None:
    a = [*rows_of([0.0, 1.0, 0.0]), {"id": "9", "trial": 0, "x": 1.0, "outcome": "fault"}]
    b = [*rows_of([1.0, 1.0]), {"id": "7", "trial": 0, "x": 1.0}]
    found = compare(a, b)
    assert (found["cases"], found["only_a"], found["only_b"], found["faults_a"], found["faults_b"]) == (2, 1, 1, 1, 0)
    assert (found["metrics"]["x"]["n"], found["metrics"]["x"]["difference"]) == (2, 0.5)


def test_results_without_a_common_case_are_refused() -> None:
    with pytest.raises(BadInput, match="share no case"):
        compare(rows_of([1.0]), [{"id": "other", "x": 1.0}])


def test_command_writes_every_metric_with_its_correction(monkeypatch, tmp_path, capsys) -> None:
    for name, shift in (("a", 0.0), ("b", 0.3)):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "results.jsonl").open("w") as out:
            for i in range(30):
                row = {
                    "id": str(i),
                    "trial": 0,
                    "solve_f1": (i % 5) / 10 + shift,
                    "answer_correct": i % 3 == 0,
                    "scenario": "x",
                }
                out.write(json.dumps(row | counted(4, 4, 1, 3, 1 + (shift > 0), 3)) + "\n")
    monkeypatch.setattr(
        sys, "argv", ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c.json")]
    )
    assert script.main() == 0
    found = json.loads((tmp_path / "c.json").read_text())
    assert set(found["metrics"]) == {"solve_f1", "answer_correct", "calls", "solved"}
    assert found["metrics"]["solve_f1"]["difference"] == pytest.approx(0.3)
    assert found["metrics"]["answer_correct"]["p"] == 1.0 and found["holm_family"] == []
    assert math.isclose(sum(s["value"] for s in found["decomposition"]["shares"].values()), 2 * 2 / 7 - 2 / 7)
    assert "gain in Solve-F1 +0.286" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--metrics", "f1"])
    with pytest.raises(BadInput, match="unknown metric 'f1': both results have solve_f1"):
        script.main()


def test_faults_on_one_side_are_reported(monkeypatch, tmp_path, capsys) -> None:
    for name, cases in (("a", 10), ("b", 7)):
        (tmp_path / name).mkdir()
        rows = [{"id": str(i), "trial": 0, "x": i % 2} for i in range(cases)]
        (tmp_path / name / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lost = [{"id": str(i), "trial": 0, "outcome": "fault", "fault": f"no reply after {i} s"} for i in range(6, 10)]
    (tmp_path / "b" / "faults.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in lost)
    )  # case 6 was played later
    out = tmp_path / "c.json"
    for b in (tmp_path / "b", tmp_path / "b" / "results.jsonl"):
        monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / "a"), str(b), "--out", str(out)])
        assert script.main() == 0
        said, found = capsys.readouterr().out, json.loads(out.read_text())
        assert "B: 3 of 10 episodes were lost to faults and are not scored (3 x no reply after N s)" in said
        assert "Warning: A lost 0 episodes to faults that B completed, and B lost 3 that A completed." in said
        assert "\nA: " not in said and (found["faults_a"], found["faults_b"], found["only_a"]) == (0, 3, 3)


def graded(small: list[float], large: list[float]) -> list[dict[str, Any]]:
    return [
        {"id": f"{level}-{place}", "trial": 0, "cluster": str(place % 4), "level": level, "x": value}
        for level, values in (("small", small), ("large", large))
        for place, value in enumerate(values)
    ]


def test_mean_of_groups_is_compared_as_a_mean_of_groups(tmp_path) -> None:
    before = graded([0, 0, 0, 1], [0, 1] * 8)
    after = graded([1, 1, 0, 1], [0, 1] * 8)  # gains in the small level only
    mean = GroupedMean("x", "x", "level")
    plain, grouped = paired_difference(before, after, "x"), paired_difference(before, after, mean)
    assert plain is not None and grouped is not None
    assert plain["difference"] == pytest.approx(2 / 20)
    assert (grouped["a"], grouped["b"]) == pytest.approx(((1 / 4 + 1 / 2) / 2, (3 / 4 + 1 / 2) / 2))
    assert grouped["difference"] == pytest.approx(1 / 4)
    assert grouped["n"] == 4
    # a case that only one side has is excluded from both
    assert paired_difference(before[1:], after, mean)["b"] == pytest.approx((2 / 3 + 1 / 2) / 2)  # type: ignore[index]


def test_summaries_say_which_metrics_are_means_of_groups(monkeypatch, tmp_path) -> None:
    mean = {"name": "x", "column": "x", "group": "level", "weights": None}
    other = {"name": "y", "column": "x", "group": "level", "weights": {"small": 1.0}}
    for name, small, defined in (("a", [0, 0], [mean, other]), ("b", [1, 0], [mean])):
        (tmp_path / name).mkdir()
        rows = graded(small, [0, 1] * 4)
        (tmp_path / name / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / name / "summary.json").write_text(json.dumps({"grouped_means": defined}))
    a, b = tmp_path / "a", tmp_path / "b"
    assert script.grouped_means(a, b) == [GroupedMean("x", "x", "level")]
    assert script.grouped_means(a / "results.jsonl", b) == script.grouped_means(a, b)
    assert script.grouped_means(tmp_path, b) == []
    monkeypatch.setattr(sys, "argv", ["compare", str(a), str(b), "--out", str(tmp_path / "c.json")])
    assert script.main() == 0
    found = json.loads((tmp_path / "c.json").read_text())["metrics"]["x"]
    assert (found["a"], found["b"]) == pytest.approx((1 / 4, 1 / 2))
