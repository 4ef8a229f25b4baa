"""Telemetry of requests: records, features, traces, metrics."""
