"""Queries of the index: the data of each page."""
