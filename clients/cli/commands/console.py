"""`slipway open`: sign in at the console with the own key."""

import webbrowser
from typing import Annotated

import typer

from clients.cli.connection import StateOption, find_stack, read_credential
from clients.cli.output import CommandError, show_line
from shared.provenance.login_links import login_link
from shared.runtime.clock import SystemClock


def open_console(
    *,
    state: StateOption = None,
    browser: Annotated[bool, typer.Option("--browser", help="Also open the link in this machine's browser.")] = False,
) -> None:
    """Print a link that signs you in at the console: once, within ten minutes, as the identity of your key."""
    stack = find_stack(state)
    if stack.console_url is None:
        raise CommandError("the console's address is not known: set SLIPWAY_CONSOLE_URL to it")
    link = login_link(stack.console_url.rstrip("/"), read_credential(stack), SystemClock().now())
    show_line(link)
    if browser and not webbrowser.open(link):
        raise CommandError("this machine has no browser that can be opened: open the printed link yourself")
