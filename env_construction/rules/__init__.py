"""What every environment must pass: rules, replays, repairs, duplicates.

`validation.py` has one function per rule.
"""
