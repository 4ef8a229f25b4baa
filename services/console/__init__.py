"""The console: what operators see, as pages; a projection of the event log."""
