"""The registry's pure decisions: no clock, store or bus."""
