"""Small helpers that know nothing of videos or models."""
