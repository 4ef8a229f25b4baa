"""Scorers: whether one answer of a model is what it should be, as a figure between 0 and 1. Pure."""
