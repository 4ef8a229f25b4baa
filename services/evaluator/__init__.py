"""The evaluator: sends rows to a staged candidate and the active version, and scores their answers."""
