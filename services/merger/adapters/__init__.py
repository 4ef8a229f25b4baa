"""One file per technology; everything that imports torch runs in a process of its own."""
