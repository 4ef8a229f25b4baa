"""What the console needs from outside: the log, its index, sessions, identities, the bus as a person."""
