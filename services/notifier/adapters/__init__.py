"""Technology around the notifier."""
