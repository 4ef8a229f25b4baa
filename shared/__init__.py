"""Mechanisms that several services use, each named by what it does; no model concept lives here."""
