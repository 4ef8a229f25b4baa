"""Pure rules of the console: rows of events, permissions of people, contents of screens."""
