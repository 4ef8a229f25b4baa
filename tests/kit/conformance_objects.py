"""What the audit log needs of a store: one suite, over objects in memory and a real store."""

from collections.abc import Callable
from typing import Any

import pytest

from shared.storage.objects import AlreadyExists


class ObjectsConformance:
    """A subclass has the fixtures `objects`, and `prefix`, below which nothing is; and the methods `overwrite(objects, key,
    data)`, and `hide(objects, key)`, which puts a delete marker over it."""

    overwrite: Callable[..., Any]
    hide: Callable[..., Any]

    def test_an_object_is_created_once(self, objects, prefix):
        assert objects.find(f"{prefix}a") is None
        objects.create(f"{prefix}a", b"one")
        with pytest.raises(AlreadyExists):
            objects.create(f"{prefix}a", b"two")
        assert objects.find(f"{prefix}a") == b"one"

    def test_each_version_is_listed_the_oldest_first_and_read_by_its_id(self, objects, prefix):
        key = f"{prefix}a"
        assert list(objects.versions(key)) == []
        objects.create(key, b"one")
        self.overwrite(objects, key, b"three")
        self.hide(objects, key)
        assert objects.find(key) is None
        versions = list(objects.versions(key))
        assert [(each.key, each.marker, each.latest) for each in versions] == [
            (key, False, False),
            (key, False, False),
            (key, True, True),
        ]
        assert [each.size for each in versions[:2]] == [3, 5]
        read = [objects.pinned({key: each.version_id}).find(key) for each in versions[:2]]
        assert read == [b"one", b"three"]
