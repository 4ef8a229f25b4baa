"""What `slipway policy` shows and writes of a policy."""
