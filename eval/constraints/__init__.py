"""CCTU: its cases with their constraints, and the check of each model turn.

The script is `eval/cctu.py`.
"""
