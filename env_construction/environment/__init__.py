"""What an environment is: its schema, its files, and how answers are matched.

Everything else imports from here; nothing here imports from the rest of the project.
"""
