"""Pure decisions: which load, what it measured, and what that means."""
