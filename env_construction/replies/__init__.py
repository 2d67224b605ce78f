"""What a model or a server replied: message content, thinking, fences, malformed replies.

One reader of each for the whole project.
"""
