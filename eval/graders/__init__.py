"""Who says whether an answer is right: answer rules, math, code, the authors' own graders.

`line_process.py` runs a grader outside this process.
"""
