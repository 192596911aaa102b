"""Video files: what they are, which times to look at, and the patches a model sees."""
