"""Compare and mix checkpoints: tensors, their change, mixtures of two checkpoints.

All functions work on files and load no model.
"""
