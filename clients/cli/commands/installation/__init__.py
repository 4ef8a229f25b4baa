"""Commands about the installation itself: the stack, its keys, its store, its fleet."""
