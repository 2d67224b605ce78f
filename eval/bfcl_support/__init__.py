"""BFCL: its own checkers, run in processes of their own.

`eval/bfcl.py` is the script.
"""
