"""A slice of live traffic on the previous version: a record that gateways watch, one per model in the bucket `slices`.

Gateways send a share of the callers' requests to the previous version for a short time and label their telemetry and
that of the others (`slice` of `Inference`), so that both versions are measured on the same callers in the same seconds.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from .stored import StoredRecord
from .vocabulary import Instant, Target

LONGEST = timedelta(seconds=60)
"""The longest duration of a slice."""


class Slice(StoredRecord):
    """A share of a model's production requests that the previous version answers until the slice expires.

    It ends by itself, also without the bus, and at once when other versions are active and behind.

    Attributes:
        target: The active version.
        behind: The previous version, which answers the share.
        share_ratio: That share; 0 for a slice that was ended.
    """

    slice_id: Annotated[str, Field(min_length=1, max_length=200)]
    target: Target
    behind: Target
    share_ratio: Annotated[float, Field(ge=0.0, le=0.25)]
    starts_at: Instant
    expires_at: Instant
