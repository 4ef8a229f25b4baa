"""The console: what operators see, as pages and as a JSON API; a projection of the event log."""
