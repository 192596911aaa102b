"""One file for each benchmark."""
