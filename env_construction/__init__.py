"""Build tool environments, and be the environment: schema, matching, sandboxed tools."""
