"""The merger: checks a checkpoint, merges its LoRA into the base tensor by tensor, and verifies the stored model."""
