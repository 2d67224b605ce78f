"""The core: live episodes, with tool calls in the sandbox and rewards from `reward/scoring.py`.

It imports no torch and depends on no protocol. Every interface and every exported package is a thin layer over it.
"""
