"""The gateway as an HTTP server: workers, bodies, limits of requests in flight, metrics page."""
