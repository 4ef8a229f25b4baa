"""Scorers: the correctness of one answer of a model, as a figure between 0 and 1. Pure."""
