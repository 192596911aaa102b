"""Retrieval: key elements, given as words, to the keyframes that show them."""
