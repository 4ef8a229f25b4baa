"""Keys, teams, and who may do what on the bus."""
