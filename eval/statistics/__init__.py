"""Estimates, 95% intervals and tests on arrays of case values; they know nothing of suites, rows or files.

`eval` and `analysis` both take theirs from here, so that a table never disagrees with a summary.json.
"""
