"""tau-bench: its domains, and its game with a simulated user.

The script is `eval/tau_bench.py`.
"""
