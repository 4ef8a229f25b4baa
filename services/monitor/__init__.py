"""The monitor: sees telemetry, says with evidence what is wrong."""
