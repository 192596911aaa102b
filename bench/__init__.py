"""Benchmarks. Run them from the root of the repository, as modules: `python -m bench.ask`."""
