"""The embedded stack: every part as a process of its own on this machine, no containers."""
