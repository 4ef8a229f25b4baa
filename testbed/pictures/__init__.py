"""Pictures for the documentation: of the console's screens and of the terminal, on a real stack with the toy engine."""
