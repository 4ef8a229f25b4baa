"""Talking to model servers: inference and chat templates."""
