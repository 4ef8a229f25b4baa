"""The services, each a small house of its own; they never import each other."""
