"""The protocols that serve the core: HTTP and MCP.

They only translate requests and errors. The core plays and scores the episodes.
"""
