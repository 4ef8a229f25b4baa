"""`slipway open`: sign in at the console with the own key."""

from pathlib import Path
from typing import Annotated

import typer

from clients.cli.connection import credential_in, find_stack
from clients.cli.options import StateOption
from clients.cli.output import CommandError, show_line
from shared.provenance.login_links import login_link
from shared.runtime.clock import SystemClock


def open_console(
    *,
    key: Annotated[
        Path | None, typer.Option("--key", help="Credential to sign in with, such as keys/credentials/anna.nk.")
    ] = None,
    state: StateOption = None,
) -> None:
    """Print a link that signs you in at the console: once, within ten minutes, as the identity of your key.

    In the stack of `slipway up` the identity is `local`, an operator and approver. `admin` may read everything in the
    console, and gives no orders there. No browser is started, because every user of the machine can read its arguments.
    """
    stack = find_stack(state)
    if stack.console_url is None:
        raise CommandError("the console's address is not known: set SLIPWAY_CONSOLE_URL to it")
    chosen = key or stack.console_credentials or stack.connection.nats_credentials
    if chosen is None:
        raise CommandError("name the file of a credential in SLIPWAY_NATS_CREDENTIALS")
    show_line(login_link(stack.console_url.rstrip("/"), credential_in(chosen), SystemClock().now()))
