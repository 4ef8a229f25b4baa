"""The OpenAI-compatible gateway of production: follows routes, streams answers, publishes telemetry."""
