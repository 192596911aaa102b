"""Engines run a model over a film: the protocol, and the local one on transformers."""
