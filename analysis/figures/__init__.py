"""How figures look and how each is written: style, formats, captions.

PNG, SVG and the data behind them.
"""
