"""Measure a policy on each suite: one result row per case, one summary per suite."""
