"""The rules that every environment must pass, with replays, repairs and duplicates.

`validation.py` has one function per rule.
"""
