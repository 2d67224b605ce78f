"""The launcher with a fake trainer: a real Ray worker loads the reward file as OpenRLHF does and reports its settings.

Arguments: the reward file or "", then the launcher's arguments. Prints one line of JSON after FOUND.
"""

import json
import sys

from train.trainer import openrlhf_launcher

REWARD_FILE = sys.argv[1]


def worker_report(reward_file: str) -> dict:
    """Runs in a worker."""
    import importlib.util
    import os

    import torch

    spec = importlib.util.spec_from_file_location("reward_func", reward_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    logs = module.reward_func([""], [""], ["{}"])["extra_logs"]
    from reward.logged_settings import readable

    return {
        "settings": readable({key: value.item() for key, value in logs.items()}),
        "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
        "RAY_ADDRESS": os.environ.get("RAY_ADDRESS"),
        "interpreter": sys.executable,
        "cuda": torch.cuda.is_available(),
        "adapted": type(sys.meta_path[0]).__name__,
    }


def stand_in(flags: list[str]) -> None:
    import ray

    report = ray.get(ray.remote(num_gpus=0.2)(worker_report).remote(REWARD_FILE))
    found = {**report, "flags": flags, "cluster": ray.get_runtime_context().gcs_address}
    print("FOUND " + json.dumps(found), flush=True)


openrlhf_launcher.run_trainer = stand_in
openrlhf_launcher.launch(sys.argv[2:])
