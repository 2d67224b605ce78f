"""The author with a language model: prompts, replies, budget, and a build that recovers from the model's mistakes.

The prompts are in `prompts/`.
"""
