"""Makes Triton match the desired state."""
