"""Multi-task GRPO."""
