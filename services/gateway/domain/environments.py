"""Which environment a request is for: production, unless its header says staging."""

from collections.abc import Sequence

from contracts.vocabulary import Environment
from services.gateway.domain.errors import bad_request

HEADER = "x-slipway-environment"


def read_environment(values: Sequence[str]) -> Environment:
    """Read the header's values; without any it is production.

    Raises:
        Refused: 400 for anything but one of the two names, so that a slip of the pen never meets production.
    """
    match list(values):
        case [] | ["production"]:
            return "production"
        case ["staging"]:
            return "staging"
    said = ", ".join(values)[:200]
    raise bad_request(f"{HEADER} is {said!r}; it must be production or staging, given once.", HEADER)
