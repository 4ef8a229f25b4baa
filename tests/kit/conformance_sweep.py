"""What a sweep needs of a store, real or not."""

from datetime import UTC, datetime

import pytest

from shared.storage.objects import AlreadyExists


class SweepStoreConformance:
    """Subclasses have the fixture `store`, which holds no object of these."""

    def test_what_was_created_is_listed_found_and_erased(self, store):
        store.create("sources/one", b"first")
        store.create("sources/one-more", b"longer")
        listed = store.listing()
        assert [listed[key].size for key in ("sources/one", "sources/one-more")] == [5, 6]
        assert store.find("sources/one") == b"first"
        assert store.erase("sources/one")
        assert store.find("sources/one") is None
        assert "sources/one" not in store.listing()
        assert store.find("sources/one-more") == b"longer", "an object whose key begins with another's is another one"

    def test_the_first_to_create_decides(self, store):
        store.create("gc/decisions/x/sources/one", b"kept")
        with pytest.raises(AlreadyExists):
            store.create("gc/decisions/x/sources/one", b"swept")
        assert store.find("gc/decisions/x/sources/one") == b"kept"

    def test_what_is_not_there_is_erased_in_peace(self, store):
        assert store.find("sources/never") is None
        assert store.erase("sources/never")

    def test_what_was_written_later_is_not_erased(self, store):
        store.create("sources/one", b"later")
        assert store.erase("sources/one", datetime(2020, 1, 1, tzinfo=UTC))
        assert store.find("sources/one") == b"later"
        assert store.erase("sources/one", datetime(2100, 1, 1, tzinfo=UTC))
        assert store.find("sources/one") is None

    def test_what_is_under_lock_stays_and_is_said(self, store, lock):
        store.create("sources/locked", b"locked")
        lock("sources/locked")
        assert not store.erase("sources/locked")
        assert store.find("sources/locked") == b"locked"
