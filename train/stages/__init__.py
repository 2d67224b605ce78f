"""Parts of the pipeline: profiles, plan, steps, tasks, logged commands, and the role of each policy in a run.

`train/pipeline.py` is the script.
"""
