"""What each process of a service reports of itself while it is connected to the bus."""

from typing import Annotated, Final

from pydantic import StringConstraints

from .vocabulary import Contract

RUNNING_PREFIX: Final = "slipway.running.v1"
"""Subjects of these reports are this, a dot, and the name of the service. No stream stores them."""
REPORT_EVERY_S: Final = 2.0
"""Seconds between two reports of a process."""


class RunningReport(Contract):
    """A process of a service that is connected, every `REPORT_EVERY_S` seconds.

    Attributes:
        process: Its id, a new one at each start.
        version: The version of its program.
    """

    process: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,32}$")]
    version: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+_-]{1,100}$")]
