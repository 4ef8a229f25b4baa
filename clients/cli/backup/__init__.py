"""Backups of an installation: how they are taken while it runs, where they are kept, and how one is restored."""
