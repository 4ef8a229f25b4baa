"""The contracts between Slipway's parts: envelope, facts, manifests, policies and routes.

This package is data. Its functions make names (ids, subjects, keys), read and write text forms, and run the checks of
publishers (`limits`, `sources`, `text_sets`). Functions that return changed records, verdicts or plans are in
`decisions`; `testbed/lint/source.py` has the list of modules that may hold functions.

It imports pydantic and the standard library, and itself relatively: the training client ships it.
"""
