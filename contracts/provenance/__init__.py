"""What is attested of a version, by whom, and the audit log."""
