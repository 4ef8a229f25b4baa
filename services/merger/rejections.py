"""Turns a rejection by the domain into the error that the bus publishes as `checkpoint.rejected`."""

from services.merger.domain import Rejection
from shared.errors import Permanent


def raise_rejection(rejection: Rejection | None) -> None:
    """Raise the error of a rejection; do nothing without one.

    Raises:
        Permanent: There is a rejection.
    """
    if rejection is not None:
        raise Permanent(rejection.code, rejection.reason, **rejection.details)
