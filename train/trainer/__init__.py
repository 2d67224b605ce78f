"""How OpenRLHF is run: its command, its launcher, the CPU and LoRA adaptations, memory, log, health.

Start with `openrlhf_command.py`: every hyperparameter of the paper, one flag each.
"""
