"""Reports of service processes that they are connected to the bus."""

from typing import Final

RUNNING_PREFIX: Final = "slipway.running.v1"
"""Subject of these empty messages: `<prefix>.<service>`; no stream stores them."""
REPORT_EVERY_S: Final = 2.0
"""Seconds between two reports of a process."""
