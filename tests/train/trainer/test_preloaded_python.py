"""A preloaded Python acts like Python: arguments, environment, files, exit codes, signals. It leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from train.trainer import preloaded_python

ROOT = Path(__file__).resolve().parents[3]
SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def caller() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("preloaded_process.py"))],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def path_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    with caller() as process:
        path = path_of(process)
        yield path
        assert process.stdin is not None
        process.stdin.close()
    gone(lambda: not Path(path).exists())


def gone(condition: Any) -> None:
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def output(python: str, *arguments: str, **settings: Any) -> str:
    return subprocess.run([python, *arguments], capture_output=True, text=True, check=True, **settings).stdout


def test_code_gets_arguments_environment_folder_and_input(python: str, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "print(sys.argv, os.environ['A'], os.environ.get('AT_THE_START'), os.getcwd(), sys.stdin.read())"
    )
    found = output(python, "-u", "-X", "dev", "-c", code, "x y", env={"A": "1"}, cwd=tmp_path, input="typed")
    assert found == f"['-c', 'x y'] 1 None {tmp_path} typed\n"


def test_modules_are_imported_once(python: str) -> None:
    code = "import sys; print('decimal' in sys.modules, 'statistics' in sys.modules)"
    assert output(python, "-c", code) == "True False\n"


def test_scripts_and_modules_run_as_main(python: str, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 5")
    (tmp_path / "script.py").write_text("import sys, beside; print(__name__, sys.argv[1:], beside.VALUE)")
    assert output(python, str(tmp_path / "script.py"), "-c") == "__main__ ['-c'] 5\n"
    assert json.loads(output(python, "-m", "json.tool", input='{"a": 1}')) == {"a": 1}


def test_files_of_the_caller_are_passed_on(python: str) -> None:
    read, write = os.pipe()
    output(python, "-c", f"import os; os.write({write}, b'through')", pass_fds=[write])
    assert os.read(read, 100) == b"through"
    os.close(write)
    assert os.read(read, 100) == b""  # nobody else has it
    os.close(read)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("pass", 0), ("raise SystemExit(7)", 7), ("1/0", 1), ("import os; os.kill(os.getpid(), 9)", -9)],
)
def test_the_exit_code_is_that_of_the_child(python: str, code: str, expected: int) -> None:
    assert subprocess.run([python, "-c", code], capture_output=True).returncode == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("leads", [False, True])
def test_a_signal_ends_the_child_and_its_group(python: str, number: int, leads: bool) -> None:
    grandchild = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True);"
    process = subprocess.Popen(
        [python, "-c", (grandchild if leads else "") + SLEEP],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=leads,
    )
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(1 + leads)]
    process.send_signal(number)
    assert process.wait() == -number
    for pid in pids:
        gone(lambda pid=pid: not running(pid))
    process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_to_the_whole_group_do_not_end_the_server(python: str, number: int) -> None:
    server = int(output(python, "-c", "import os; print(os.getppid())"))
    os.kill(server, number)
    assert output(python, "-c", "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))") == "set()\n"


def running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_what_a_child_spawns_is_preloaded_too(python: str, tmp_path: Path) -> None:
    script = tmp_path / "spawning.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "def child(results): results.put('decimal' in sys.modules)\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn'); results = context.Queue()\n"
        "    process = context.Process(target=child, args=(results,)); process.start()\n"
        "    print(results.get(), flush=True); process.join(); print(process.exitcode)\n"
    )
    assert output(python, str(script)) == "True\n0\n"


@pytest.mark.parametrize("options", [["-u"], []])
def test_output_is_unbuffered_if_asked_for(python: str, options: list[str]) -> None:
    environment = os.environ if options else {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [python, *options, "-c", "import time; print('now', end=''); time.sleep(60)"],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.read(3) == "now"
    process.kill()
    process.communicate()


def test_a_system_without_what_it_needs_gets_the_plain_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int) -> int:
        raise OSError

    monkeypatch.setattr(os, "pidfd_open", refused)
    assert preloaded_python.start(["json"]) == sys.executable


def test_children_end_with_the_caller() -> None:
    process = caller()
    path = path_of(process)
    child = subprocess.Popen([path, "-c", SLEEP], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    process.kill()
    process.communicate()
    assert child.wait() == 1
    child.stdout.close()
    gone(lambda: not running(pid) and not Path(path).parent.exists())
