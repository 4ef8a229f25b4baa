"""The gateway as a server: workers, bodies, limits of requests in flight, its metrics page."""
