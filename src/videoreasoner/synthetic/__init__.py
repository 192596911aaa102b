"""Synthetic videos with exact truth: the demo, the test fixture and the tiny model's training world."""
