"""The options of publishing a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict

from clients.training.connection import Connection
from clients.training.upload import Progress
from contracts.policy import ReleasePolicy
from contracts.vocabulary import ServingSettings


class Options(TypedDict, total=False):
    """The optional arguments of `publish_checkpoint`."""

    connection: Connection | None
    variants: Sequence[str]
    policy: ReleasePolicy | Mapping[str, Any] | None
    calibration: Path | str | None
    evaluation: Path | str | None
    serving: ServingSettings | Mapping[str, Any] | None
    attempt: int
    progress: Progress | None


DEFAULTS: Final[Options] = {
    "connection": None,
    "variants": ("int8",),
    "policy": None,
    "calibration": None,
    "evaluation": None,
    "serving": None,
    "attempt": 1,
    "progress": None,
}


def completed(options: Options) -> Options:
    """Return the options with defaults for missing options.

    Raises:
        TypeError: There is no such option.
    """
    unknown = sorted(set(options) - set(DEFAULTS))
    if unknown:
        msg = f"There is no argument {unknown[0]!r}: use {', '.join(DEFAULTS)}."
        raise TypeError(msg)
    return {**DEFAULTS, **options}
