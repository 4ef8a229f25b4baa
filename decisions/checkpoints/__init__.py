"""What a checkpoint must be, decided from its configuration: before an upload, and again before the merge. Pure."""
