"""Converts the domain's rejections to errors, which the bus publishes as `checkpoint.rejected`."""

from services.merger.domain import Rejection
from shared.errors import Permanent


def raise_rejection(rejection: Rejection | None) -> None:
    """Raise a rejection as an error; None does nothing.

    Raises:
        Permanent: There is a rejection.
    """
    if rejection is not None:
        raise Permanent(rejection.code, rejection.reason, **rejection.details)
