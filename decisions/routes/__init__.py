"""Routes: which versions take traffic, and edits of them."""
