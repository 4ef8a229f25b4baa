"""Keys, teams, and permissions on the bus."""
