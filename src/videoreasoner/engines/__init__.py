"""Engines: the interface, and the one that runs a checkpoint on transformers."""
