"""The paper at small scale, and how the shipped tiny checkpoints are made. Not part of the wheel."""
