"""One file per technology that the command line touches."""
