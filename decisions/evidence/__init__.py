"""What requests show about a version, and the alerts that follow."""
