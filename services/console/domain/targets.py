"""Parsing of target names. Pure."""

import re
from typing import Final

from pydantic import ValidationError

from contracts.vocabulary import Target

_NAME: Final = re.compile(r"^(?P<model>[a-z0-9-]{1,63})\.v(?P<version>[0-9]{1,9})\.(?P<variant>[a-z0-9-]{1,20})$")


def parse_target(text: str) -> Target | None:
    """Parse a target such as `support-bot.v3.int8`; None if the text is none."""
    match = _NAME.match(text)
    if match is None:
        return None
    try:
        return Target.model_validate(match.groupdict())
    except ValidationError:
        return None
