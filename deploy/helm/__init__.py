"""The Helm chart, and its parts generated from the contracts: facts, secrets."""
