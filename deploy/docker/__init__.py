"""Images, and what containers run beside the services."""
