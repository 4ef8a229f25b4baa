"""The event log, read and followed; dead letters."""
