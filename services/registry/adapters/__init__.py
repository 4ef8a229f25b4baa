"""What the registry needs from outside, one technology per file."""
