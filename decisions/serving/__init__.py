"""Settings that an engine is started with, and the memory that it needs."""
