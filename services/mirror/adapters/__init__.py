"""What the monitor uses from outside, one file per technology."""
