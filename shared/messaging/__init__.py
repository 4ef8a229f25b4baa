"""Messages: the bus, its delivery rules, and what is provisioned on it."""
