"""The world author: environments from fictional worlds, sampled from data files.

Each file in `domains/` describes one domain. `names.yaml` has the parts of all names. No language model is involved.
"""
