"""`slipway gc`: what nothing refers to is hidden, and removed after a grace period."""
