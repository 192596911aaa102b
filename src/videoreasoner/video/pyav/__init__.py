"""Exact frames by PyAV."""
