"""`slipway open`: sign in at the console with the own key."""

from clients.cli.connection import StateOption, find_stack, read_credential
from clients.cli.output import CommandError, show_line
from shared.provenance.login_links import login_link
from shared.runtime.clock import SystemClock


def open_console(*, state: StateOption = None) -> None:
    """Print a link that signs you in at the console: once, within ten minutes, as the identity of your key.

    It starts no browser: the link would be in the browser's arguments, which every user of the machine can read.
    """
    stack = find_stack(state)
    if stack.console_url is None:
        raise CommandError("the console's address is not known: set SLIPWAY_CONSOLE_URL to it")
    show_line(login_link(stack.console_url.rstrip("/"), read_credential(stack), SystemClock().now()))
