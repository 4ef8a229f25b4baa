"""The console: web pages for operators, a projection of the event log."""
