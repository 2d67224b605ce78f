"""What the pipeline is made of: profiles, commands with their logs, and what each policy of a run is.

`train/pipeline.py` is the script.
"""
