"""The key of the API that commands present to the gateway."""

from clients.cli.connection import StackAddress
from clients.cli.output import CommandError
from decisions.access.api_keys import parse_key


def read_key(stack: StackAddress) -> str:
    """Return the key in the file that the stack's address names.

    Raises:
        CommandError: none is named, it cannot be read, or it holds no key of this API.
    """
    if stack.gateway_key is None:
        raise CommandError(
            "the gateway needs a key: set SLIPWAY_GATEWAY_KEY to a file with one "
            "(`slipway keys issue NAME --output FILE`)"
        )
    try:
        text = stack.gateway_key.read_text().strip()
    except (OSError, ValueError) as error:
        raise CommandError(f"the key for the gateway in {stack.gateway_key} cannot be read: {error}") from error
    if parse_key(text) is None:
        raise CommandError(f"{stack.gateway_key} holds no key for the gateway: write one into it, as it was issued")
    return text
