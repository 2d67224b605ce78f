"""Turn drafts into files: the author interface, workers, progress, statistics, the data card.

`environment_builder.py` carries one environment through the five stages.
"""
