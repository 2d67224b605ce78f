"""The tool server of a rollout."""
