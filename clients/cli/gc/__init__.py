"""`slipway gc`: what nothing refers to is planned, and removed after a wait."""
