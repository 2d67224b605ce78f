"""Parts of the pipeline: profiles, logged commands, and the role of each policy in a run.

`train/pipeline.py` is the script.
"""
