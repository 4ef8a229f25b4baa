"""Callers: authentication, limits and budgets."""
