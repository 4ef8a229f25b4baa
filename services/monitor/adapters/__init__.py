"""Adapters of the monitor, one file per technology."""
