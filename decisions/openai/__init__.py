"""Requests of the OpenAI API: paths, fields, limits."""
