"""Play environments, make RL prompts, train with OpenRLHF."""
