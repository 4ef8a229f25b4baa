"""What commands show, computed from facts."""
