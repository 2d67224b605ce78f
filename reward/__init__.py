"""Parse a model turn, run its calls in the sandbox, score it with the FTRL reward."""
