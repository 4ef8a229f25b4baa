"""Adapters: NATS, engines, the gateway, the store."""
