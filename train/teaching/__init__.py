"""Supervised learning: demonstrators, the tiny model made from scratch, and the card of what was made.

`train/warm_start.py` is the script.
"""
