"""Running commands: logs, failures, no process left behind; finished stages are identified by all of their keys."""

import sys
import threading
import time
from pathlib import Path

import pytest

from train.stages.commands import CommandFailed, CommandRunner, StageLog


def test_output_goes_to_the_screen_and_to_the_log(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    CommandRunner(tmp_path).run("hello", [sys.executable, "-c", "print('one'); print('two')"])
    assert (tmp_path / "hello.log").read_text() == "one\ntwo\n"
    assert capfdbinary.readouterr().out.endswith(b"one\ntwo\n")


def test_a_tag_marks_whole_lines_and_keeps_only_the_last_state_of_a_bar(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    code = r"import sys; sys.stdout.write('0%\r50%\r100%\nend')"
    CommandRunner(tmp_path).run("bar", [sys.executable, "-c", code], tag="[a] ")
    assert capfdbinary.readouterr().out.splitlines()[1:] == [b"[a] 100%", b"[a] end"]


def test_a_failed_command_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    code = "import sys; print('the reason'); sys.exit(3)"
    with pytest.raises(CommandFailed, match=r"(?s)exit code 3.*broken\.log.*the reason"):
        CommandRunner(tmp_path).run("broken", [sys.executable, "-c", code])


def test_a_dry_run_prints_and_starts_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runner = CommandRunner(tmp_path / "logs", dry_run=True)
    runner.run("never", [sys.executable, "-m", "x y"], environment={"A": "1"})
    assert capfd.readouterr().out == "  $ A=1 python -m 'x y'\n"
    assert not (tmp_path / "logs").exists()


def test_stop_ends_a_command_and_its_child_processes(tmp_path: Path) -> None:
    runner = CommandRunner(tmp_path / "logs")
    child = tmp_path / "child"
    code = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(child)!r}).write_text(str(child.pid)); time.sleep(60)"
    )
    failed: list[BaseException] = []

    def run() -> None:
        try:
            runner.run("sleeper", [sys.executable, "-c", code])
        except CommandFailed as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not (child.exists() and child.read_text()):
        time.sleep(0.01)
    runner.stop()
    thread.join(20)
    assert failed and not thread.is_alive()
    for _ in range(500):  # init needs a moment to reap the grandchild
        if not _alive(int(child.read_text())):
            break
        time.sleep(0.01)
    assert not _alive(int(child.read_text()))
    with pytest.raises(CommandFailed, match="stopped"):
        runner.run("late", [sys.executable, "-c", "pass"])


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_stage_is_finished_only_for_exactly_its_keys(tmp_path: Path) -> None:
    log = StageLog(tmp_path / "stages.jsonl")
    log.write({"stage": "train", "experiments": ["a"], "train_seed": 10}, time.monotonic())
    again = StageLog(tmp_path / "stages.jsonl")
    assert again.finished({"stage": "train", "experiments": ["a"], "train_seed": 10})
    assert not again.finished({"stage": "train", "experiments": ["a"], "train_seed": 1})
    assert not again.finished({"stage": "train", "experiments": ["a", "b"], "train_seed": 10})
    assert not again.finished({"stage": "train"})


def test_an_incomplete_row_of_the_stage_log_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "stages.jsonl"
    StageLog(path).write({"stage": "start"}, time.monotonic())
    with path.open("a") as handle:
        handle.write('{"stage": "train"')
    log = StageLog(path)
    assert log.finished({"stage": "start"}) and not log.finished({"stage": "train"})
