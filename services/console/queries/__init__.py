"""Questions to the index: the data of each screen."""
