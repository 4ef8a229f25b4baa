"""The environment of a request: production, unless its header says staging."""

from collections.abc import Sequence

from contracts.vocabulary import Environment
from services.gateway.domain.errors import bad_request

HEADER = "x-slipway-environment"


def read_environment(values: Sequence[str]) -> Environment:
    """Return the environment that a header's values name; production without a header.

    Raises:
        RequestRejected: 400 for any other value, so that a typing error never reaches production.
    """
    match list(values):
        case [] | ["production"]:
            return "production"
        case ["staging"]:
            return "staging"
    value = ", ".join(values)[:200]
    raise bad_request(f"{HEADER} is {value!r}; it must be production or staging, given once.", HEADER)
