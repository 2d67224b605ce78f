"""How a run is read: its folder, its trajectories, its claims, intervals and verdicts.

Nothing here draws.
"""
