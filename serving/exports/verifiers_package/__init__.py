"""Tool environments for verifiers: a question, native calls of its tools, and a reward from what they returned."""

from .taskset import FtrlToolsTaskset

__all__ = ["FtrlToolsTaskset"]
