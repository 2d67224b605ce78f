"""Running OpenRLHF: command, launcher, CPU and LoRA adaptations, memory plan, log, health rules.

Start with `openrlhf_command.py`: it sets every hyperparameter of the paper with one flag each.
"""
