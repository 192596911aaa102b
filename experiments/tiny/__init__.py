"""How the shipped tiny checkpoints are made."""
