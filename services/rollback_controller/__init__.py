"""Rolls production back to the previous version by the release's policy, and rehearses rollbacks in staging."""
