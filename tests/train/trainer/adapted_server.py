"""One process that the launcher adapted and that has imported OpenRLHF; it runs each script that it is asked for in a
fork, because the import takes longer than the scripts and no script may see what another one changed.

stdin: one JSON object per line (`words`: the script and its arguments, `stdin`, `stdout`, `stderr`: files, `environ`).
stdout: one line per script with its exit code.
"""

import json
import os
import runpy
import signal
import sys
import traceback

from train.trainer.openrlhf_launcher import install, worker_environment

LIMIT_S = 600
"""A script that hangs fails its test."""

os.environ.update(worker_environment(["cpu", "no-flash-attn", "lora"], 1))
install()

import deepspeed  # noqa: E402, F401
import openrlhf.cli.train_ppo_ray  # noqa: E402
import openrlhf.trainer.ray.ppo_actor  # noqa: E402, F401

answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        code = 0
        try:
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                os.dup2(os.open(asked[name], os.O_RDONLY if name == "stdin" else os.O_WRONLY | os.O_CREAT), number)
            sys.argv = asked["words"]
            os.environ.update(asked["environ"])
            runpy.run_path(sys.argv[0], run_name="__main__")
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
