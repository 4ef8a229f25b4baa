"""Sets up: environments, locks, licences, bills of materials, wheels."""
