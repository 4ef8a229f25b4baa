"""Pure decisions of the quantiser: how to quantise, on which text, and whether the result is good enough."""

from .corpus import (
    CorpusSplit,
    corpus_digest,
    pack_windows,
    split_topics,
    spread_windows,
    turn_keys,
    without_overlap,
)
from .planning import (
    OUTPUT_FORMAT,
    AwqEngine,
    CalibrationPlan,
    HeldOutPlan,
    QuantisationPlan,
    QuantiserDefaults,
    Refusal,
    plan_measurement_key,
    plan_output_key,
    plan_quantisation,
)
from .precision import INSTRUCTION_SETS, Precision, assess_precision, choose_precision, instruction_set
from .quality import IDENTICAL, Assessment, GateCode, assess_quality, windows_to_judge
from .shape import Dtype, ModelShape, choose_group_size, shape_of

__all__ = [
    "IDENTICAL",
    "INSTRUCTION_SETS",
    "OUTPUT_FORMAT",
    "Assessment",
    "AwqEngine",
    "CalibrationPlan",
    "CorpusSplit",
    "Dtype",
    "GateCode",
    "HeldOutPlan",
    "ModelShape",
    "Precision",
    "QuantisationPlan",
    "QuantiserDefaults",
    "Refusal",
    "assess_precision",
    "assess_quality",
    "choose_group_size",
    "choose_precision",
    "corpus_digest",
    "instruction_set",
    "pack_windows",
    "plan_measurement_key",
    "plan_output_key",
    "plan_quantisation",
    "shape_of",
    "split_topics",
    "spread_windows",
    "turn_keys",
    "windows_to_judge",
    "without_overlap",
]
