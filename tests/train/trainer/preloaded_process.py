"""Starts a preloaded Python, prints its path, and lives until its input closes."""

import os
import sys

from train.trainer.preloaded_python import start

if __name__ == "__main__":
    os.environ["AT_THE_START"] = "1"
    print(start(["decimal"]), flush=True)
    sys.stdin.read()
