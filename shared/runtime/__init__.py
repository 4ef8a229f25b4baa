"""Running processes: clock, jobs, exits, settings, telemetry."""
