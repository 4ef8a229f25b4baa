"""Uploads that have not ended are listed whole, whatever a server takes the markers for."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.storage.transfer import open_uploads

PAGE = 3


@dataclass(frozen=True)
class Upload:
    object_name: str
    upload_id: str


@dataclass(frozen=True)
class Page:
    uploads: list[Upload]
    is_truncated: bool


def as_aws_documents(uploads):
    """By key, then by id; an id counts beside a key only."""
    ordered = sorted(uploads, key=lambda upload: (upload.object_name, upload.upload_id))

    def list_page(key_marker, upload_id_marker):
        after = (key_marker, upload_id_marker) if key_marker is not None else ("", "")
        rest = [upload for upload in ordered if (upload.object_name, upload.upload_id) > after]
        return Page(rest[:PAGE], len(rest) > PAGE)

    return list_page


def as_seaweedfs_does(uploads):
    """By id; a key is the only one that is listed; a page that is full is taken for one of several."""
    ordered = sorted(uploads, key=lambda upload: upload.upload_id)

    def list_page(key_marker, upload_id_marker):
        rest = [upload for upload in ordered if upload.upload_id > (upload_id_marker or "")]
        rest = [upload for upload in rest if key_marker in (None, upload.object_name)]
        return Page(rest[:PAGE], len(rest) >= PAGE)

    return list_page


def without_markers(uploads):
    """Always the first page."""
    return lambda **_markers: Page(sorted(uploads, key=str)[:PAGE], len(uploads) > PAGE)


@pytest.mark.parametrize("server", [as_aws_documents, as_seaweedfs_does])
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.sampled_from(["k", "l", "m"]), max_size=14))
def test_each_upload_is_listed_once(server, keys_by_id):
    uploads = {Upload(key, upload_id) for upload_id, key in keys_by_id.items()}
    listed = list(open_uploads(server(uploads)))
    assert len(listed) == len(uploads)
    assert set(listed) == uploads


def test_a_server_that_has_no_pages_ends_the_list():
    uploads = {Upload("k", str(number)) for number in range(7)}
    assert len(list(open_uploads(without_markers(uploads)))) == PAGE
    assert list(open_uploads(lambda **_markers: Page([], is_truncated=True))) == []
