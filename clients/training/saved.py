"""The folder of a saved checkpoint; it stays if publishing fails."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clients.training.errors import PublishError


def new_folder(beside: Path | None) -> Path:
    """Return a new folder below `beside`, by default in the system's temporary folder.

    Raises:
        PublishError: The folder cannot be created.
    """
    try:
        if beside is not None:
            beside.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="slipway-checkpoint-", dir=beside)).absolute()
    except OSError as error:
        raise PublishError(f"No folder to save the checkpoint in can be made: {error}.") from error


@contextmanager
def named_on_failure(saved: Path) -> Iterator[None]:
    """Name the folder of a saved checkpoint if the block fails, in the PublishError or in the log.

    The folder may hold the only copy of the weights.
    """
    advice = (
        f"The checkpoint is kept in {saved}: publish it with publish_checkpoint, or with "
        f"`slipway publish --adapter {saved}`."
    )
    try:
        yield
    except PublishError as error:
        raise PublishError(f"{str(error).rstrip('.')}. {advice}") from error
    except BaseException:
        logging.getLogger("slipway_client").error(advice)  # noqa: TRY400 - the error goes on to the caller
        raise
