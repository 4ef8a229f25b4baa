"""A real base model and a real LoRA training run, all offline."""
