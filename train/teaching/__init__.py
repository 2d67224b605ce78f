"""Supervised learning: demonstrators, the tiny model trained from scratch, and its model card.

The script is `train/warm_start.py`.
"""
