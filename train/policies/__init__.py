"""Who plays: one policy interface, its back ends, and the engine that all of them share.

`games.py` plays any game, `rollout.py` environments; `specs.py` turns `--policy` into a policy.
"""
