"""The definition of an environment: its schema, its files, and how answers are matched.

The rest of the project imports from here; nothing here imports from the rest of the project.
"""
