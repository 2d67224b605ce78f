"""Build tool environments and define what an environment is: schema, answer matching, sandboxed tools."""
