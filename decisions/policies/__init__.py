"""The rules of valid policies, and the differences between two."""
