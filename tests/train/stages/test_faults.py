"""Episodes lost to faults are reported in one sentence, the same everywhere."""

from collections import Counter
from pathlib import Path

import pytest

from env_construction.environment.jsonl import BadInput, write_jsonl
from train.stages.faults import fault_kind, fault_rows, faults_line, faults_text, require_played, rows_faults_text


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("no record of id 'atlas-7', trial 0", "no record of id ..., trial N"),
        ("only 3 turns recorded of id 'b', trial 12", "only N turns recorded of id ..., trial N"),
        ("server gone\nTraceback", "server gone"),
        ("", "unknown"),
        ("the server can't answer, it isn't up", "the server can't answer, it isn't up"),
        ("x" * 200, "x" * 77 + "..."),
    ],
)
def test_fault_kind_masks_names_and_numbers(text: str, kind: str) -> None:
    assert fault_kind(text) == kind


def test_sentence_counts_all_faults_and_names_the_most_common_kinds() -> None:
    assert faults_text([], 6) == ""
    assert faults_text(["server gone"], 6) == "1 of 6 episodes was lost to faults and is not scored (1 x server gone)"
    texts = [f"no record of id '{name}', trial 0" for name in "abc"] + ["a", "a", "b", "c", "d"]
    assert faults_text(texts, 240, "cases") == (
        "8 of 240 cases were lost to faults and are not scored "
        "(3 x no record of id ..., trial N, 2 x a, 1 x b, 2 x other)"
    )
    assert faults_line([], 6, "out") == ""
    assert faults_line(["a"], 6, "out").endswith("; see out/faults.jsonl; run the same command again to retry them\n")


def test_run_in_which_no_episode_could_be_played_is_an_error_unless_the_folder_holds_more() -> None:
    require_played(Counter(), 0, 0, "out")
    require_played(Counter({"gone": 3}), 4, 1, "out")  # one was played
    require_played(Counter({"gone": 2}), 2, 9, "out")  # the few that a former call left over
    with pytest.raises(
        BadInput, match=r"^out: no episode of 3 could be played; 2 times: server gone \(see faults\.jsonl"
    ):
        require_played(Counter({"server\n gone": 2, "other": 1}), 3, 0, "out")


def test_fault_row_of_an_episode_completed_later_is_dropped(tmp_path: Path) -> None:
    assert fault_rows(tmp_path, []) == []
    lost = [{"id": "a", "trial": trial, "outcome": "fault", "fault": f"fault {trial}"} for trial in (0, 1)]
    write_jsonl(tmp_path / "faults.jsonl", lost)
    played = [{"id": "a", "trial": 0, "outcome": "ended"}]
    assert fault_rows(tmp_path, played) == [lost[1]]
    assert rows_faults_text([*played, *fault_rows(tmp_path, played)]).startswith("1 of 2 episodes was lost to faults")
