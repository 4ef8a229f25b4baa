"""The reports of each process of a service that it is connected to the bus."""

from typing import Final

RUNNING_PREFIX: Final = "slipway.running.v1"
"""Subjects of these reports are this, a dot, and the name of the service. No stream stores them; they are empty."""
REPORT_EVERY_S: Final = 2.0
"""Seconds between two reports of a process."""
