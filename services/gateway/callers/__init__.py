"""Who asks, and what of its limits is left."""
