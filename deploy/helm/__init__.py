"""The Helm chart, and what of it follows from the contracts: facts, secrets."""
