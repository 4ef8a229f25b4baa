"""The audit log, and what the garbage collector may take."""
