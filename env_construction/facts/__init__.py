"""The author without a model: real facts, the questions about them, and the tools that know them.

`fact_author.py` is the author; the other modules are its data and its texts.
"""
