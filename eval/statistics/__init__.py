"""Estimates, 95% intervals and tests on arrays of case values, independent of suites, rows and files.

`eval` and `analysis` both use these functions, so that a table always agrees with summary.json.
"""
