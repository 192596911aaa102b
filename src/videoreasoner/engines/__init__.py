"""Engines run a model over a video: the protocol, and the local one on transformers."""
