"""`slipway card`: the model card of a version."""

import typer

from clients.cli.connection import find_stack
from clients.cli.options import StateOption
from clients.cli.output import CommandError, Exit
from clients.cli.releases.resolving import VersionArgument, advise, find_version_name
from clients.cli.releases.version_records import attester_keys, open_store
from decisions.releases.model_cards import render_card
from shared.errors import Permanent
from shared.provenance.version_history import read_version_history


def card(
    what: VersionArgument,
    state: StateOption = None,
) -> None:
    """Print the model card of a version in Markdown: metadata for model hubs, then the attested facts."""
    stack = find_stack(state)
    model, number = find_version_name(stack, what)
    store = open_store(stack)
    keys = attester_keys(stack)
    try:
        history = read_version_history(store, keys, model, number)
    except Permanent as error:
        raise CommandError(f"{error.reason} See `slipway verify {what}`.", Exit.FAILED) from error
    if history is None:
        raise CommandError(f"{model} has no version {number}{advise(stack, model, f'slipway versions {model}')}")
    typer.echo(render_card(history), nl=False)
