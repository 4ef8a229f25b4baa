"""The gateway as a server: workers, bodies, limits of what is in flight, its page of metrics."""
