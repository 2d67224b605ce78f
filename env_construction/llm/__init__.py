"""The author with a language model: prompts, replies, budget, and the build that survives its mistakes.

The prompts are in `prompts/`.
"""
