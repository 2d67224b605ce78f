"""Train as a job of a Ray cluster's job server (http://HEAD:8265): submit it, follow its log, stop it.

`ray job submit` is only a client: the job continues after the client ends. The output folder therefore keeps the job's
id. An earlier job that still writes there is stopped before a new one starts, and `stop` ends the job with this
process. The trainer's saved state is in the output folder, which all nodes share, so it survives a stopped job.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from env_construction.environment.jsonl import BadInput

RAY = str(Path(sys.executable).with_name("ray"))
STOP_S = 300.0


@dataclass(frozen=True)
class RayJob:
    """`address`: of the job server. `file`: keeps the id of the job that writes into the file's folder."""

    address: str
    file: Path

    def submit_command(self, entry: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """The command that submits `entry` and follows its log. Every worker runs this interpreter, by its path."""
        runtime = json.dumps({"env_vars": dict(environment), "py_executable": sys.executable})
        options = ["--address", self.address, "--submission-id", f"ftrl-{secrets.token_hex(8)}"]
        return [RAY, "job", "submit", *options, "--runtime-env-json", runtime, "--", *entry]

    def begin(self, command: Sequence[str]) -> None:
        """Call this before running `command` (of `submit_command`): stop the folder's earlier job, keep the new id."""
        self.stop()
        self.file.write_text(command[list(command).index("--submission-id") + 1] + "\n", encoding="utf-8")

    def stop(self) -> None:
        """Stop this folder's job, if any, and wait until it has ended. Raises BadInput if it may still be running."""
        if not self.file.exists():
            return
        job = self.file.read_text(encoding="utf-8").strip()
        command = [RAY, "job", "stop", "--address", self.address, job]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=STOP_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BadInput(
                f"job {job} may still be running ({type(error).__name__}); stop it with: ray {' '.join(command[1:])}"
            ) from None
        if result.returncode and "does not exist" not in result.stdout + result.stderr:
            last = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1:]
            raise BadInput(
                f"job {job} may still be running ({' '.join(last)}); stop it with: ray {' '.join(command[1:])}"
            )
        self.file.unlink()
