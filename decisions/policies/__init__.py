"""What a policy may say, and how two policies differ."""
