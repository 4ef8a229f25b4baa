"""The views and texts of `slipway policy`."""
