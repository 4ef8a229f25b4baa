"""Why a checkpoint is rejected."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from contracts.codes import Code


@dataclass(frozen=True)
class Rejection:
    """The reason of a rejection: code, sentence, and values."""

    code: Code
    reason: str
    details: Mapping[str, Any] = field(default_factory=dict)
