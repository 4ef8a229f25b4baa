"""The mirror's pure decisions: desired registry content, differences, and schedules."""
