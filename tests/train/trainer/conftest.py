"""A process that has imported OpenRLHF, for the tests that look into it; they and those of Ray are no unit tests."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PROCESSES = {"openrlhf_script", "other_cluster"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests whose fixtures start a trainer's process or a cluster."""
    for item in items:
        if HERE in item.path.parents and PROCESSES & set(getattr(item, "fixturenames", ())):
            item.add_marker("integration")


@pytest.fixture(scope="session")
def openrlhf_script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[str]]]:
    """`openrlhf_script(prefix, script, *arguments, stdin="")`: what follows `prefix` in the lines that a script prints.

    It runs on a CPU in a process that the launcher adapted, with no compiler in reach, on a machine that shows a GPU.
    """
    pytest.importorskip("openrlhf")
    folder = tmp_path_factory.mktemp("adapted")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent)}
    environ |= {"CUDA_VISIBLE_DEVICES": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    log = (folder / "server").open("w")
    server = subprocess.Popen(
        [sys.executable, str(HERE / "adapted_server.py")], cwd=ROOT, env=environ,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
    )  # fmt: skip

    def run(prefix: str, script: Path, *arguments: object, stdin: str = "", **settings: str) -> list[str]:
        assert server.stdin is not None and server.stdout is not None
        files = {name: str(folder / f"{script.stem}.{name}") for name in ("stdin", "stdout", "stderr")}
        Path(files["stdin"]).write_text(stdin)
        asked = {"words": [str(script), *map(str, arguments)], "environ": settings, **files}
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = server.stdout.readline()
        assert code, (folder / "server").read_text()[-3000:]
        assert code == "0\n", Path(files["stderr"]).read_text()[-3000:]
        lines = Path(files["stdout"]).read_text().splitlines()
        return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]

    yield run
    server.communicate()
    log.close()


@pytest.fixture(scope="session")
def found_by(openrlhf_script: Callable[..., list[str]]) -> Callable[..., dict]:
    """`found_by("trainer_process.py", *arguments)`: what that script of this folder found."""

    def run(name: str, *arguments: object) -> dict:
        [found] = openrlhf_script("FOUND ", HERE / name, *arguments)
        return json.loads(found)

    return run
