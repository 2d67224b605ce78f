"""Exports for other trainers: OpenEnv, verifiers, TRL, verl, and supervised data.

Exported environments are scored by this project's code.
"""
