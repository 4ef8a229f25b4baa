"""What another policy would have made of recorded traffic."""
