"""Checkpoints, the prompt tree, and decoding on stock transformers models."""
