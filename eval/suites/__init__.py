"""What a suite is: cases, games, results; shared by every script of `eval/`.

`suite.py` runs one; `results.py` summarizes it.
"""
