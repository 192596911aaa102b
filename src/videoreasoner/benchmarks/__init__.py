"""Evaluation: benchmarks, the runner that asks their questions, and paired comparison of runs."""
