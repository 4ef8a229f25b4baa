"""A failure says for itself what events of an earlier time said in their details."""

import pytest

from contracts.facts import VariantFailed
from tests.kit.factories import fact, quality, ref

TOLD = {"purpose": "rehearsal", "manifest": ref("kept"), "quality": quality()}
IN_DETAILS = VariantFailed.model_construct(**TOLD).model_dump(mode="json", include=set(TOLD))


def said(one):
    return {name: getattr(one, name) for name in TOLD}


def test_what_an_event_of_an_earlier_time_says_in_its_details_is_read_as_if_it_said_it_itself():
    found = fact(VariantFailed, details={**IN_DETAILS, "needed_bytes": 7})
    assert said(found) == TOLD
    assert found.details == {**IN_DETAILS, "needed_bytes": 7}
    assert said(VariantFailed.model_validate_json(found.model_dump_json())) == TOLD


def test_what_an_event_says_itself_stands():
    found = fact(VariantFailed, details=IN_DETAILS, purpose="benchmark")
    assert said(found) == {**TOLD, "purpose": "benchmark"}


@pytest.mark.parametrize("details", [{}, {"purpose": "lunch"}, {"quality": 7}, {"manifest": "s3://slipway/x"}])
def test_details_are_free(details):
    assert said(fact(VariantFailed, details=details)) == dict.fromkeys(TOLD)
