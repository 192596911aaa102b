"""What a run would need, before it starts."""
