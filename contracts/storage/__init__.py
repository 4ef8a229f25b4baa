"""What the object store holds, and who may use it."""
