"""The contents of the object store, and the access to it."""
