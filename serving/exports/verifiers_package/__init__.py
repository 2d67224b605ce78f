"""Tool environments for verifiers: a question, its tools as native calls, and a reward from the tools' outputs."""

from .taskset import FtrlToolsTaskset

__all__ = ["FtrlToolsTaskset"]
