"""The console's pure rules: rows of events, people's permissions, contents of pages."""
