"""Routing: the choice of the target and the endpoint for a request."""
