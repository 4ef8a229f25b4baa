"""The alerts of a replay beside those of the log, as the command line shows them."""
