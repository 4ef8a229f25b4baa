"""Backups of a running installation: taking, storage and restore."""
