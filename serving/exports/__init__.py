"""Folders and files that other trainers read: OpenEnv, verifiers, TRL, verl, supervised data.

Each exported environment scores with this project's own code.
"""
