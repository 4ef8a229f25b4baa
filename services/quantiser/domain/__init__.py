"""Pure decisions of the quantiser: how to quantise, on which text, and whether the result is good enough."""

from .corpus import CorpusSplit, corpus_digest, pack_windows, split_topics, spread_windows, without_overlap
from .planning import (
    OUTPUT_FORMAT,
    CalibrationPlan,
    Dtype,
    HeldOutPlan,
    ModelShape,
    QuantisationPlan,
    QuantiserDefaults,
    Refusal,
    choose_group_size,
    plan_output_key,
    plan_quantisation,
    shape_of,
)
from .quality import IDENTICAL, Assessment, GateCode, assess_quality

__all__ = [
    "IDENTICAL", "OUTPUT_FORMAT", "Assessment", "CalibrationPlan", "CorpusSplit", "Dtype", "GateCode",
    "HeldOutPlan", "ModelShape", "QuantisationPlan", "QuantiserDefaults", "Refusal", "assess_quality",
    "choose_group_size", "corpus_digest", "pack_windows", "plan_output_key", "plan_quantisation", "shape_of",
    "split_topics", "spread_windows", "without_overlap",
]  # fmt: skip
