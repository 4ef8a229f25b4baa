"""Views of commands, computed from facts."""
