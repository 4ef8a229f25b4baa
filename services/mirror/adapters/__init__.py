"""What the mirror uses from outside, one file per technology."""
