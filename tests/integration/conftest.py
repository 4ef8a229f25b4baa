"""Fixtures of several files: a store with object lock, a version that was promoted in it, and publishers who upload."""

from tests.kit.promoted import locking_server, promoted  # noqa: F401 - fixtures
from tests.kit.uploading import http, intake, publishers, store  # noqa: F401 - fixtures
