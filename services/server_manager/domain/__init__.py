"""Pure decisions of server-manager: what should be loaded, what is, and what to do about the difference."""
