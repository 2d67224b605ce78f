"""The protocols under which the core is served: MCP and HTTP.

They translate requests and errors; they play and score nothing themselves.
"""
