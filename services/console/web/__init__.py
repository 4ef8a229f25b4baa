"""The console's HTTP side: who is signed in, the API, and pages that render its data."""
