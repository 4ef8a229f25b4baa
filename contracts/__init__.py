"""The contracts between Slipway's parts: envelope, facts, manifests, policies and routes.

This package is data. Its functions name things (ids, subjects, keys), read and write their text forms, and check what a
publisher must check before it publishes (`limits`, `sources`, `text_sets`). No function takes a decision: whatever
returns a changed record, a verdict or a plan is in `decisions`. `testbed/lint/source.py` holds the list.

It imports pydantic and the standard library only, and only relatively inside itself, so that it can be shipped inside
the training client.
"""
