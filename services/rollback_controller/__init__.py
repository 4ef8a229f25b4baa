"""Rolls production back to the previous version by the declared policy, and rehearses it in staging beforehand."""
