"""Messages: the bus, its delivery rules, and its provisioning."""
