"""The console: web pages for operators, derived from the event log."""
