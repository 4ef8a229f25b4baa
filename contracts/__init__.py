"""What Slipway's parts say to each other: envelope, facts, manifests, policies and routes.

This package imports pydantic and the standard library only, and only relatively inside itself, so that it can be
shipped inside the training client.
"""
