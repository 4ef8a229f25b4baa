"""Pure decisions of the mirror: the desired content of a registry, and the difference."""
