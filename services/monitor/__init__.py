"""The monitor: raises alerts from telemetry, by sequential tests."""
