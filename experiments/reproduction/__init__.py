"""The claims of the paper, tested at small scale."""
