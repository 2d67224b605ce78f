"""Who plays: one policy interface, its back ends, and the rollout that all of them share.

`rollout.py` plays; `specs.py` turns `--policy` into a policy.
"""
