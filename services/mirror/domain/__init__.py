"""Pure decisions of the mirror: the desired content of a registry, and its difference from the present one."""
