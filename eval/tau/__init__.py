"""tau-bench and tau2-bench: their domains, simulated users and games.

The scripts are `eval/tau_bench.py` and `eval/tau2.py`.
"""
