"""Run OpenRLHF's entry point up to its `train` for each command line on stdin (JSON lists); print the parsed values.

It runs in a fork of `adapted_server.py`, because the compatibility module patches torch permanently.
"""

import json
import os
import runpy
import sys

from train.trainer.openrlhf_launcher import ADAPT_VARIABLE, install

os.environ[ADAPT_VARIABLE] = "cpu,no-flash-attn"
install()

import ray  # noqa: E402


class ReachedTraining(Exception):
    pass


def stop() -> bool:
    raise ReachedTraining


ray.is_initialized = stop
for line in sys.stdin:
    sys.argv = ["train_ppo_ray", *json.loads(line)]
    try:
        runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
    except ReachedTraining as reached:
        frame = reached.__traceback__
        while frame is not None and "args" not in frame.tb_frame.f_locals:
            frame = frame.tb_next
        while frame is not None and frame.tb_next is not None and "args" in frame.tb_next.tb_frame.f_locals:
            frame = frame.tb_next
        assert frame is not None
        arguments = frame.tb_frame.f_locals["args"]
        print("PARSED " + json.dumps(vars(arguments), default=vars), flush=True)
