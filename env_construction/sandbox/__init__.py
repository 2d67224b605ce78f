"""Run untrusted tool code: isolated processes, hard limits, one result per call.

Start with `tool_sandbox.py`; its docstring says what is covered and what is not.
"""
