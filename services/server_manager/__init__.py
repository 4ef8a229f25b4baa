"""Reconciles engines with routes and orders."""
