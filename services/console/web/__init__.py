"""The console's HTTP side: who is signed in, and the pages."""
