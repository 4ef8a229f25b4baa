"""Mechanisms used by several services, each named by its function; models and releases do not occur here."""
