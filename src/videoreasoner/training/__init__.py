"""Training: the cold start and multi-task GRPO."""
