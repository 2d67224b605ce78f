"""BFCL: the package's own checkers, run in separate processes.

The script is `eval/bfcl.py`.
"""
