"""What the benchmarker needs from outside, one file per technology."""
