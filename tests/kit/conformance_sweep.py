"""What a sweep needs of a store, real or not."""

import pytest

from clients.cli.gc.store import erase
from shared.storage.objects import AlreadyExists


class SweepStoreConformance:
    """Subclasses have the fixture `store`, which holds no object of these."""

    def test_what_was_created_is_listed_and_found(self, store):
        store.create("sources/one", b"first")
        store.create("sources/one-more", b"longer")
        listed = store.listing()
        assert [listed[key].size for key in ("sources/one", "sources/one-more")] == [5, 6]
        assert listed["sources/one"].hidden_by is None
        assert store.find("sources/one") == b"first"
        assert store.find("sources/never") is None
        with pytest.raises(AlreadyExists):
            store.create("sources/one", b"second")

    def test_what_is_hidden_is_found_by_no_one_and_can_be_shown_again(self, store):
        store.create("sources/one", b"first")
        store.create("sources/one-more", b"longer")
        store.hide("sources/one")
        listed = store.listing()["sources/one"]
        assert listed.hidden_at >= listed.modified
        assert store.find("sources/one") is None
        assert store.find("sources/one-more") == b"longer", "an object whose key begins with another's is another one"
        store.remove_version("sources/one", listed.hidden_by)
        assert store.find("sources/one") == b"first"

    def test_what_is_hidden_can_be_written_anew_and_outlives_the_erasure_of_what_was_there(self, store):
        store.create("sources/one", b"first")
        store.hide("sources/one")
        listed = store.listing()["sources/one"]
        store.create("sources/one", b"second")
        assert erase(store, "sources/one", listed)
        assert store.find("sources/one") == b"second"
        assert len(store.listing()["sources/one"].versions) == 1

    def test_what_is_erased_is_gone(self, store):
        store.create("sources/one", b"first")
        store.hide("sources/one")
        listed = store.listing()["sources/one"]
        assert erase(store, "sources/one", listed)
        assert "sources/one" not in store.listing()
        assert erase(store, "sources/one", listed), "another sweep has just done so"

    def test_what_is_under_lock_stays_hidden_and_is_said(self, store, lock):
        store.create("sources/locked", b"locked")
        lock("sources/locked")
        store.hide("sources/locked")
        assert not erase(store, "sources/locked", store.listing()["sources/locked"])
        listed = store.listing()["sources/locked"]
        assert listed.hidden_by is not None
        store.remove_version("sources/locked", listed.hidden_by)
        assert store.find("sources/locked") == b"locked"
