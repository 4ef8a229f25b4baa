"""Pure decisions of the monitor: no clock, no randomness, no I/O."""
