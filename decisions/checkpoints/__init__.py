"""Requirements of a checkpoint, checked by its configuration before an upload and before the merge. Pure."""
