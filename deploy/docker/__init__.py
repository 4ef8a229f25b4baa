"""Images, and the programs that containers run beside the services."""
