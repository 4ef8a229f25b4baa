"""Orders to the quantiser's worker, in this process."""

import json

from contracts.facts import QuantiseSettings
from services.quantiser.domain import QuantiserDefaults, plan_quantisation, read_shape
from services.quantiser.ports import QuantisationJob

DEFAULTS = QuantiserDefaults(held_out_windows=5, held_out_tokens=256, min_calibration_tokens=256)


SETTINGS = QuantiseSettings(calibration_samples=4, calibration_tokens=128)


def order(merged, folder, *, variant="int8", settings=SETTINGS, calibration=None, dtype="bfloat16"):
    config = json.loads((merged / "config.json").read_text())
    plan = plan_quantisation(variant, read_shape(config, dtype), settings, DEFAULTS)
    return QuantisationJob(plan=plan, merged=merged, output=folder / "output", calibration=calibration)


def quantise_here(job):
    """Do an order in this process: the imports, most of the time of a tiny model, are paid once."""
    from services.quantiser.adapters import quantise_worker

    return quantise_worker.quantise(job)
