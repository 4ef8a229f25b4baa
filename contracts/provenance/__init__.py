"""The attestations of a version, their attesters, and the audit log."""
