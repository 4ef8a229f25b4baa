"""Publish a finished training run to Slipway, by a function or a callback of the transformers Trainer; follow it."""

from typing import TYPE_CHECKING, Any

from clients.training.connection import Connection
from clients.training.data_hash import data_hash
from clients.training.errors import PublishError, ReadError, SlipwayClientError
from clients.training.publish import publish_checkpoint, publish_checkpoint_async
from clients.training.releases import Alert, Release, read_alerts, read_release, wait_for_release
from clients.training.run import Published, Run

if TYPE_CHECKING:
    from clients.training.callback import SlipwayCallback
    from clients.training.trained import publish_trained

__all__ = [
    "Alert",
    "Connection",
    "PublishError",
    "Published",
    "ReadError",
    "Release",
    "Run",
    "SlipwayCallback",
    "SlipwayClientError",
    "data_hash",
    "publish_checkpoint",
    "publish_checkpoint_async",
    "publish_trained",
    "read_alerts",
    "read_release",
    "wait_for_release",
]


def __getattr__(name: str) -> Any:
    """Import the names that need torch or transformers on first use."""
    if name == "SlipwayCallback":
        from clients.training.callback import SlipwayCallback

        return SlipwayCallback
    if name == "publish_trained":
        from clients.training.trained import publish_trained

        return publish_trained
    raise AttributeError(name)
