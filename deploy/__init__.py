"""How Slipway is set up and run: the embedded stack, containers, generated permissions."""
