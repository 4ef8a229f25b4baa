"""The quantiser's pure decisions: how to quantise, on which text, and whether quality suffices."""

from services.quantiser.domain.corpus import (
    CorpusSplit,
    corpus_digest,
    pack_windows,
    remove_overlap,
    split_topics,
    spread_windows,
    turn_keys,
)
from services.quantiser.domain.device import Device, device_environment
from services.quantiser.domain.planning import (
    OUTPUT_FORMAT,
    AwqEngine,
    CalibrationPlan,
    HeldOutPlan,
    QuantisationPlan,
    QuantiserDefaults,
    Rejection,
    plan_output_key,
    plan_quantisation,
    plan_settings_key,
)
from services.quantiser.domain.quality import Assessment, GateCode, assess_quality, windows_needed
from services.quantiser.domain.shape import Dtype, ModelShape, choose_group_size, read_shape

__all__ = [
    "OUTPUT_FORMAT",
    "Assessment",
    "AwqEngine",
    "CalibrationPlan",
    "CorpusSplit",
    "Device",
    "Dtype",
    "GateCode",
    "HeldOutPlan",
    "ModelShape",
    "QuantisationPlan",
    "QuantiserDefaults",
    "Rejection",
    "assess_quality",
    "choose_group_size",
    "corpus_digest",
    "device_environment",
    "pack_windows",
    "plan_output_key",
    "plan_quantisation",
    "plan_settings_key",
    "read_shape",
    "remove_overlap",
    "split_topics",
    "spread_windows",
    "turn_keys",
    "windows_needed",
]
