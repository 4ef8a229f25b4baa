"""What a request for a variant says of its calibration: always numbers, which every quantiser that ever was can read."""

from typing import Annotated, get_args

import pytest
from pydantic import BaseModel, Field, ValidationError

from contracts.envelope import Event, plain
from contracts.facts import CALIBRATION_DEFAULTS, QuantiseSettings, VariantRequested
from contracts.vocabulary import Variant, canonical_json
from testbed import factories

VARIANTS = get_args(Variant)


class FirstSettings(BaseModel):
    """The settings as the first quantiser knew them."""

    calibration_samples: Annotated[int, Field(ge=0)] = 16
    calibration_tokens: Annotated[int, Field(ge=8)] = 384
    seed: int = 0


def request(variant="awq-int4", **changes):
    about = {"release_id": "r", "version": 1, "variant": variant, "merged": factories.ref("m").model_dump()}
    return VariantRequested.model_validate(about | changes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_request_that_chooses_nothing_says_the_methods_own_in_numbers(variant):
    settings = request(variant).model_dump(mode="json")["settings"]
    assert settings == CALIBRATION_DEFAULTS[variant].model_dump()
    assert FirstSettings.model_validate(settings, strict=True).model_dump() == settings


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_that_are_left_out_are_the_methods_own(variant):
    assert request(variant, settings={"seed": 3}).settings == CALIBRATION_DEFAULTS[variant].model_copy(
        update={"seed": 3}
    )


@pytest.mark.parametrize("chosen", [{"calibration_tokens": 64}, QuantiseSettings(calibration_tokens=64)])
def test_what_is_chosen_stands_and_the_rest_is_the_methods_own(chosen):
    assert request(settings=chosen).settings == QuantiseSettings(calibration_samples=4, calibration_tokens=64)


def test_what_is_chosen_survives_the_bytes_we_publish():
    chosen = QuantiseSettings(calibration_samples=0)
    event = factories.event(factories.fact(VariantRequested, variant="awq-int4", settings=chosen))
    assert Event[VariantRequested].model_validate_json(canonical_json(plain(event))) == event
    assert event.data.settings == QuantiseSettings(calibration_samples=0, calibration_tokens=512)


@pytest.mark.parametrize(
    "wrong",
    [
        {"variant": "int9"},
        {"variant": ["int8"]},
        {"settings": None},
        {"settings": "all"},
        {"settings": {"calibration_samples": None}},
        {"settings": {"calibration_samples": -1}},
        {"settings": {"calibration_tokens": "many"}},
    ],
)
def test_what_is_wrong_is_still_refused(wrong):
    with pytest.raises(ValidationError):
        request(**wrong)
