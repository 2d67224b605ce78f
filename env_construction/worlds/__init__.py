"""The world author: environments from fictional worlds, drawn from data files.

Each file in `domains/` describes one domain; `names.yaml` holds the parts of which all names are made. No model writes anything here.
"""
