"""`slipway gc`: hides unreferenced objects, and removes them after a grace period."""
