"""The embedded stack: each part runs as its own process on this machine, without containers."""
