"""What touches libraries, processes and the store; heavy imports live only here."""
