"""Validates a checkpoint, merges its LoRA into the base tensor by tensor, and proves that nothing was lost."""
