"""What people and training systems use to talk to Slipway."""
