"""Adapters of the console: the log, its index, sessions, identities, the bus as a person."""
