"""Mutants: small changes of decision code, each of which a test must notice."""
