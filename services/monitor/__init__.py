"""Raises alerts from gateway telemetry, by sequential tests."""
