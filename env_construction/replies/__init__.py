"""Parse the replies of models and servers: message content, thinking, fences, malformed replies.

The whole project uses these readers.
"""
