"""Tool environments for OpenEnv: a question, its tools, and a reward that follows from what the tools returned."""

from .client import FtrlToolsEnv

__all__ = ["FtrlToolsEnv"]
