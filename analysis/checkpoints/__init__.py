"""What training did to the weights: tensors, their change, mixtures of two checkpoints.

Works on files, without loading a model.
"""
