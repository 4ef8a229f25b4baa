"""Publishes a finished training run to Slipway: a plain function, and a callback for the transformers Trainer."""

from typing import TYPE_CHECKING, Any

from clients.training.errors import PublishError
from clients.training.place import Place
from clients.training.publish import Published, Run, publish_checkpoint, publish_checkpoint_async

if TYPE_CHECKING:
    from clients.training.callback import SlipwayCallback

__all__ = [
    "Place",
    "PublishError",
    "Published",
    "Run",
    "SlipwayCallback",
    "publish_checkpoint",
    "publish_checkpoint_async",
]


def __getattr__(name: str) -> Any:
    """Import the callback only when it is asked for: it needs transformers, the rest does not."""
    if name == "SlipwayCallback":
        from clients.training.callback import SlipwayCallback

        return SlipwayCallback
    raise AttributeError(name)
