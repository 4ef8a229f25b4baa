"""Publish a finished training run to Slipway: by a function, or by a callback for the transformers Trainer."""

from typing import TYPE_CHECKING, Any

from clients.training.connection import Connection
from clients.training.errors import PublishError
from clients.training.publish import Published, Run, publish_checkpoint, publish_checkpoint_async

if TYPE_CHECKING:
    from clients.training.callback import SlipwayCallback

__all__ = [
    "Connection",
    "PublishError",
    "Published",
    "Run",
    "SlipwayCallback",
    "publish_checkpoint",
    "publish_checkpoint_async",
]


def __getattr__(name: str) -> Any:
    """Import the callback on first use: it needs transformers, the other names do not."""
    if name == "SlipwayCallback":
        from clients.training.callback import SlipwayCallback

        return SlipwayCallback
    raise AttributeError(name)
