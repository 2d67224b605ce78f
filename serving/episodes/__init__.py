"""The neutral core: live episodes with calls in the sandbox and rewards from the one scorer.

It needs no torch and knows no protocol; every face and every exported folder is a thin layer over it.
"""
