"""The parts of a suite (cases, games, results), shared by every script in `eval/`.

`suite.py` runs a suite; `results.py` summarizes it.
"""
