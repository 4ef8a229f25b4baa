"""A release: its steps, what its version's history and card say."""
