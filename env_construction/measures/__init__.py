"""Measures of a whole data set: shortcuts that must not pay, features that must not tell, distance to other data.

Each takes a list of environments, ours or the authors'. The scripts in the folder above print them."""
