"""tau-bench: its domains and its game with a simulated user.

`eval/tau_bench.py` is the script.
"""
