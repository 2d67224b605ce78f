"""Policies: one interface, its back ends, and the rollout engine that they share.

`games.py` plays any game, `rollout.py` plays environments, `specs.py` turns `--policy` into a policy.
"""
