"""Fixtures of several files: a store with object lock, and a version that was promoted in it."""

from tests.kit.promoted import locking_server, promoted  # noqa: F401 - fixtures
