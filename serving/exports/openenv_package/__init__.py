"""Tool environments for OpenEnv: a question, its tools, and a reward computed from the tools' outputs."""

from .client import FtrlToolsEnv

__all__ = ["FtrlToolsEnv"]
