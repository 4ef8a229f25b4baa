"""Releases, versions and routes, as records and names of the command line."""
