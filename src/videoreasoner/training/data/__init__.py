"""From rows to training examples."""
