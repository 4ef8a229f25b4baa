"""Rules of this repository that no other program of `make lint` has; a problem is `path:line: sentence`."""
