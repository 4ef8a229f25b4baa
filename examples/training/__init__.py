"""Training jobs with TRL, Lightning and plain PyTorch that publish what they trained: docs/guides/training.md."""
