"""Which target and which of its endpoints a request goes to."""
