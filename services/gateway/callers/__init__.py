"""Callers, and the rest of their limits."""
