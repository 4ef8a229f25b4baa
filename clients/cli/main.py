"""The `slipway` command line: its commands, each a function of its own module, and how errors end it."""

import importlib.metadata
import os
import sys
from typing import Annotated

import nats.errors
import typer
from pydantic import ValidationError

from clients.cli.commands import (
    alerts,
    ask,
    base,
    doctor,
    drill,
    events,
    keys,
    orders,
    publish,
    quarantine,
    replay,
    rollback,
    runtime,
    stack,
    status,
    trace,
    versions,
)
from clients.cli.output import EXIT_CODES, CommandError, Exit, show_line
from clients.cli.parsing import describe_variables
from clients.cli.settings import CliSettings
from shared.errors import SlipwayError
from shared.runtime.settings import Connection

app = typer.Typer(
    name="slipway",
    help=f"Release fine-tuned models to production traffic, and roll them back.\n\n{EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
STACK, RELEASES, INSPECT, OPERATE = "Embedded stack", "Releases", "Inspect", "Operations"
for name, function, panel in (
    ("doctor", doctor.doctor, STACK),
    ("up", stack.up, STACK),
    ("ps", stack.ps, STACK),
    ("down", stack.down, STACK),
    ("env", stack.env, STACK),
    ("publish", publish.publish, RELEASES),
    ("status", status.status, RELEASES),
    ("approve", orders.approve, RELEASES),
    ("cancel", orders.cancel, RELEASES),
    ("versions", versions.versions, INSPECT),
    ("show", versions.show, INSPECT),
    ("trace", trace.trace, INSPECT),
    ("routes", trace.routes, INSPECT),
    ("ask", ask.ask, INSPECT),
    ("events", events.events, OPERATE),
    ("alerts", alerts.alerts, OPERATE),
    ("rollback", rollback.rollback, OPERATE),
    ("drill", drill.drill, OPERATE),
    ("replay", replay.replay_command, OPERATE),
):
    app.command(name, rich_help_panel=panel)(function)
app.add_typer(base.base_app, name="base", rich_help_panel=RELEASES)
app.add_typer(orders.policy_app, name="policy", rich_help_panel=RELEASES)
app.add_typer(runtime.runtime_app, name="runtime", rich_help_panel=OPERATE)
app.add_typer(quarantine.quarantine_app, name="quarantine", rich_help_panel=OPERATE)
app.add_typer(keys.keys_app, name="keys", rich_help_panel=OPERATE)
app.add_typer(events.deadletters_app, name="deadletters", rich_help_panel=OPERATE)


def _show_version(asked: bool) -> None:
    if not asked:
        return
    try:
        version = importlib.metadata.version("slipway")
    except importlib.metadata.PackageNotFoundError:
        version = "of no known version: it runs from its source files, without being installed"
    show_line(f"slipway {version}")
    raise typer.Exit


@app.callback()
def read_common_options(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Release fine-tuned models to production traffic, and roll them back."""


def main() -> None:
    """Run the command line; every error ends as one message and an exit code."""
    os.environ["TQDM_DISABLE"] = "1"  # libraries that are imported from here on would draw their bars over ours
    try:
        app()
    except CommandError as refused:
        _end(str(refused), refused.code)
    except SlipwayError as error:
        unreachable = error.code in ("bus_unavailable", "store_unavailable")
        _end(error.sentence(), Exit.UNREACHABLE if unreachable else Exit.FAILED)
    except (TimeoutError, nats.errors.Error) as error:
        _end(f"the message bus does not answer ({type(error).__name__}); see `slipway ps`", Exit.UNREACHABLE)
    except ValidationError as error:
        if error.title not in (CliSettings.__name__, Connection.__name__):
            raise
        _end(describe_variables(error), Exit.USAGE)
    except KeyboardInterrupt:
        sys.exit(130)


def _end(sentence: str, code: Exit) -> None:
    print(f"slipway: {sentence}", file=sys.stderr)
    sys.exit(int(code))


if __name__ == "__main__":
    main()
