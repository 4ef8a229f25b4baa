"""Clients of model servers: inference and chat templates."""
