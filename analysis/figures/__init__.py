"""Style, captions and file formats of figures.

Each figure is written as PNG, SVG and PDF, with its data as CSV.
"""
