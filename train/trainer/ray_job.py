"""A training as a job of a Ray cluster's job server (http://HEAD:8265): submitted, its log followed, stopped when we are stopped.

`ray job submit` is only a client: when it ends, the job goes on. So the job's id is kept in the output folder, an earlier job that still
writes there is stopped before a new one starts, and `stop` ends the job with us. The trainer's saved state is in the output folder,
which all nodes share, and survives all of this.
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
    """`address` of the job server; `file` keeps the id of the job that writes into its folder."""

    address: str
    file: Path

    def submit_command(self, entry: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """The client that submits `entry` and follows its log. Every worker runs this interpreter, by its path."""
        runtime = json.dumps({"env_vars": dict(environment), "py_executable": sys.executable})
        options = ["--address", self.address, "--submission-id", f"ftrl-{secrets.token_hex(8)}"]
        return [RAY, "job", "submit", *options, "--runtime-env-json", runtime, "--", *entry]

    def begin(self, command: Sequence[str]) -> None:
        """Before `command` of `submit_command` is run: stop an earlier job of this folder, keep the new one's id."""
        self.stop()
        self.file.write_text(command[list(command).index("--submission-id") + 1] + "\n", encoding="utf-8")

    def stop(self) -> None:
        """Stop this folder's job and wait until it has ended; nothing to do where it has. Raises BadInput if it may still run."""
        if not self.file.exists():
            return
        job = self.file.read_text(encoding="utf-8").strip()
        command = [RAY, "job", "stop", "--address", self.address, job]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=STOP_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BadInput(
                f"job {job} may still be running ({type(error).__name__}): {' '.join(command[1:])}"
            ) from None
        if result.returncode and "does not exist" not in result.stdout + result.stderr:
            last = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1:]
            raise BadInput(f"job {job} may still be running ({' '.join(last)}): ray {' '.join(command[1:])}")
        self.file.unlink()
