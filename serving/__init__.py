"""Serve environments to any trainer or agent, and export them in the formats that trainers read."""
