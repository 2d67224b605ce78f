"""Worker processes end with their parent, are replaced when killed, and are not affected by forks of the parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from env_construction.sandbox import processes as sandbox_processes
from env_construction.sandbox.tool_sandbox import (
    SandboxFault,
    SandboxJob,
    ToolCall,
    ToolResult,
    ToolSandbox,
    shared_sandbox,
)

ROOT = Path(__file__).resolve().parents[3]
CODES = {
    "add": "def add(a, b): return a + b",
    "hang": (
        "import threading, time\ndef hang():\n    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    while True: pass"
    ),
    "pid": "import os\ndef pid(): return os.getpid()",
}
ADD = ToolCall("add", {"a": 1, "b": 2})
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts processes in /proc")


def parents() -> dict[int, int]:
    """The parent of every running process. Processes may end while they are listed."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            if ") Z " not in stat:
                found[int(folder.name)] = int(stat.rsplit(")", 1)[1].split()[1])
    return found


def below(pid: int) -> set[int]:
    """All descendants of `pid`."""
    listed = parents()
    found: set[int] = set()
    level = {pid}
    while level:
        level = {child for child, parent in listed.items() if parent in level} - found
        found |= level
    return found


def gone(pids: set[int]) -> bool:
    for _ in range(100):
        if not pids & parents().keys():
            return True
        time.sleep(0.05)
    return False


def test_nothing_is_left_of_a_closed_sandbox() -> None:
    before = below(os.getpid())
    sandbox = ToolSandbox(timeout_s=0.5)
    assert [result.status for result in sandbox.run(CODES, [ADD, ToolCall("hang", {})])] == ["ok", "timeout"]
    ours = below(os.getpid()) - before
    assert ours
    sandbox.close()
    assert gone(ours)


@pytest.mark.parametrize(
    "ending",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.abort()",
        "os._exit(3)",
        "sys.exit(0)",
        "os.kill(os.getpid(), signal.SIGTERM)",
    ],
)
def test_no_worker_outlives_its_parent(ending: str) -> None:
    script = f"""
        import os, signal, sys, threading, time
        from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox
        sandbox = ToolSandbox(workers=2, timeout_s=60.0)
        codes = {CODES!r}
        session = sandbox.open_session(codes)
        print(session.call("pid", {{}}).output, flush=True)
        for name in ("hang", "hang", "hang"):
            threading.Thread(target=sandbox.run, args=(codes, [ToolCall(name, {{}})]), daemon=True).start()
        time.sleep(1.0)
        print("ready", flush=True)
        sys.stdin.readline()
        {ending}
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdin is not None and parent.stdout is not None
    assert parent.stdout.readline().strip().isdigit()
    assert parent.stdout.readline().strip() == "ready"
    workers = below(parent.pid)
    assert len(workers) >= 4
    parent.stdin.write("\n")
    parent.stdin.close()
    parent.wait(30)
    parent.stdout.close()
    assert gone(workers)


def test_killed_processes_are_replaced() -> None:
    with ToolSandbox(workers=1, timeout_s=5.0) as sandbox:
        for _ in range(2):
            assert sandbox.run(CODES, [ADD])[0].output == "3"
            for pid in below(os.getpid()):
                if b"tool_worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
            assert sandbox.run(CODES, [ADD])[0].output == "3"


def kill_zygotes() -> None:
    """Kill our direct children that are zygotes, and wait until all of their children have ended with them."""
    ending: set[int] = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            if b"tool_worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                ending |= {pid, *below(pid)}
                os.kill(pid, signal.SIGKILL)
    assert gone(ending)


def test_processes_killed_while_they_work_are_replaced_and_no_result_is_lost() -> None:
    isolated = {"slow": "import os, time\ndef slow(x):\n    time.sleep(0.02)\n    return x", **CODES}
    jobs = [SandboxJob(isolated, [ToolCall("slow", {"x": i}), ToolCall("add", {"a": i, "b": 1})]) for i in range(60)]
    with ToolSandbox(workers=2, timeout_s=20.0) as sandbox:
        results: list[list[ToolResult]] = []
        thread = threading.Thread(target=lambda: results.extend(sandbox.run_batch(jobs)))
        thread.start()
        time.sleep(0.3)
        kill_zygotes()
        thread.join(60)
        assert [[result.output for result in row] for row in results] == [[str(i), str(i + 1)] for i in range(60)]
        assert sandbox.run(CODES, [ADD])[0].output == "3"


def test_a_session_whose_zygote_was_killed_resumes_from_its_state() -> None:
    codes = {"add": "def add(state, n):\n    state['n'] += n\n    return state['n']"}
    with ToolSandbox() as sandbox, sandbox.open_session(codes, {"n": 1}) as session:
        assert session.call("add", {"n": 2}).output == "3"
        kill_zygotes()
        assert session.call("add", {"n": 3}).output == "6"
        assert session.state() == {"n": 6}
        kill_zygotes()
        assert session.state() == {"n": 6}


def test_a_zygote_that_cannot_start_says_why_and_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "tool_worker.py"
    broken.write_text(
        "import sys, time\nprint('RuntimeError: the real reason', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    )
    before = below(os.getpid())
    monkeypatch.setattr(sandbox_processes, "WORKER", broken)
    monkeypatch.setattr(sandbox_processes, "START_SECONDS", 1.0)
    with pytest.raises(SandboxFault, match="did not start: RuntimeError: the real reason"):
        ToolSandbox()
    assert gone(below(os.getpid()) - before)


def test_a_failed_restart_is_a_fault_with_the_reason_and_the_sandbox_works_again_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "tool_worker.py"
    broken.write_text("raise RuntimeError('no memory left')\n")
    with ToolSandbox(timeout_s=5.0) as sandbox:
        assert sandbox.run(CODES, [ADD])[0].output == "3"
        with monkeypatch.context() as patch:
            patch.setattr(sandbox_processes, "WORKER", broken)
            kill_zygotes()
            [result] = sandbox.run(CODES, [ADD])
            assert result.status == "fault"
            assert "RuntimeError: no memory left" in result.output
        assert sandbox.run(CODES, [ADD])[0].output == "3"


def test_an_isolated_process_holds_its_own_channel_and_no_other_descriptor() -> None:
    look = (
        "import os\ndef look():\n    found = []\n    for fd in range(64):\n        try:\n"
        "            os.fstat(fd)\n            found.append(fd)\n        except OSError: pass\n    return found"
    )
    slow = "import time\ndef slow(): time.sleep(0.3)"
    with ToolSandbox(workers=1) as sandbox, sandbox.open_session(CODES) as session:
        assert session.call("add", {"a": 1, "b": 2}).output == "3"
        codes = {"look": look, "slow": slow, **CODES}
        calls = [ADD, *[ToolCall("slow", {})] * 3, *[ToolCall("look", {})] * 4]
        assert {result.output for result in sandbox.run(codes, calls)[4:]} == {"[0, 1, 2, 3]"}


def _in_child(sandbox: ToolSandbox, answers: multiprocessing.SimpleQueue[str]) -> None:
    answers.put(sandbox.run(CODES, [ADD])[0].output + shared_sandbox().run(CODES, [ADD])[0].output)
    sandbox.close()


def test_a_forked_copy_of_the_parent_gets_separate_workers() -> None:
    with ToolSandbox() as sandbox:
        assert sandbox.run(CODES, [ADD])[0].output == "3"
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        child = context.Process(target=_in_child, args=(sandbox, answers))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert answers.get() == "33"
        assert sandbox.run(CODES, [ADD])[0].output == "3"


def test_the_worker_starts_without_the_environment_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    source = (
        "import os, sys\n"
        "def look(): return [dict(os.environ), [p for p in sys.path if 'site-packages' in p or 'nowhere' in p]]"
    )
    with ToolSandbox() as sandbox:
        assert sandbox.run({"look": source}, [ToolCall("look", {})])[0].output == "[{}, []]"
