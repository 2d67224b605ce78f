"""Graders decide whether an answer is correct: answer rules, math, code, the authors' own graders.

`line_process.py` runs a grader outside this process.
"""
