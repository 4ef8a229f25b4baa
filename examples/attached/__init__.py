"""Servers that exist, attached: what deploys the versions that Slipway asks for."""
