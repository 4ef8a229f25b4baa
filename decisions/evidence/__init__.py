"""Evidence of requests about a version, and the alerts that follow."""
