"""The console's HTTP side: sign-in, sessions and pages."""
