"""When traffic moves to another version, and what is decided about the one it left."""
