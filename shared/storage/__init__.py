"""Storage: blobs, key-value records and sources of model folders."""
