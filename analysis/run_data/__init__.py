"""Read a run: its folder, trajectories, claims, intervals and verdicts.

Nothing here draws.
"""
