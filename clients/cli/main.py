"""The `slipway` command line with its error handling; `command_list` has its commands."""

import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from clients.cli.command_list import CommandGroup
from clients.cli.errors import EXIT_CODES, CommandError, Exit, asked_for_json, print_error
from clients.cli.output import show_line
from contracts.version import CONTRACTS, VERSION
from shared.errors import SlipwayError

app = typer.Typer(
    name="slipway",
    cls=CommandGroup,
    help=f"Release fine-tuned models to production traffic, and roll them back.\n\n{EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if not asked:
        return
    show_line(f"slipway {VERSION}, contracts {CONTRACTS}")
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
    """Run the command line; an error ends it with a message and an exit code."""
    os.environ["TQDM_DISABLE"] = "1"  # libraries that are imported from here on would draw their bars over ours
    try:
        sys.exit(app(standalone_mode=False) or Exit.OK)
    except typer.TyperException as error:
        _end_of_usage(error)
    except typer.Abort:
        _end("aborted", Exit.FAILED)
    except CommandError as refused:
        print_error(str(refused), refused.code, refused.name, refused.details)
        sys.exit(int(refused.code))
    except SlipwayError as error:
        unreachable = error.code in ("bus_unavailable", "store_unavailable")
        _end(error.sentence(), Exit.UNREACHABLE if unreachable else Exit.FAILED, error.code)
    except TimeoutError as error:
        _end(_no_answer(error), Exit.UNREACHABLE)
    except ModuleNotFoundError as error:
        _end_without_package(error)
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        _end_of_library(error)
        raise


def _end_of_usage(error: Any) -> NoReturn:
    """End with the usage, or an object with --json, because the command line cannot be parsed."""
    code = Exit.USAGE if getattr(error, "exit_code", 2) == Exit.USAGE else Exit.FAILED
    if asked_for_json():
        _end(getattr(error, "format_message", lambda: str(error))(), code)
    from typer.rich_utils import rich_format_error

    rich_format_error(error)
    sys.exit(int(code))


def _end_without_package(error: ModuleNotFoundError) -> None:
    """End because a package of another project is missing, for example in the image of the command line."""
    package = (error.name or "").partition(".")[0]
    if package and package not in ("clients", "contracts", "decisions", "deploy", "services", "shared"):
        where = "the image of the command line leaves it out: run the command where `make setup` was run"
        _end(f"this command needs the package {package}, which is not installed here; {where}", Exit.FAILED)


def _end_of_library(error: Exception) -> None:
    """End because of an error of NATS or an invalid variable; return for other errors."""
    import nats.errors  # a command that fails so has imported both
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from clients.cli.settings import CliSettings
    from shared.runtime.settings import Connection, SourceSettings, describe_variables

    if isinstance(error, nats.errors.Error):
        _end(_no_answer(error), Exit.UNREACHABLE)
    for kind in (CliSettings, Connection, SourceSettings):
        if isinstance(error, ValidationError) and error.title == kind.__name__:
            _end(describe_variables(kind, error), Exit.USAGE)
    if isinstance(error, SettingsError):  # a list that is no JSON, which only sources have
        _end(describe_variables(SourceSettings, error), Exit.USAGE)


def _no_answer(error: Exception) -> str:
    from shared.messaging.patience import NO_LEADER

    if isinstance(error, NO_LEADER):
        why = "no server of the message bus takes the request, as while they choose a leader"
        return f"{why} ({type(error).__name__}); try again in a minute, `slipway doctor` shows the servers"
    return f"the message bus does not answer ({type(error).__name__}); see `slipway ps`"


def _end(sentence: str, code: Exit, name: str = "") -> NoReturn:
    print_error(sentence, code, name)
    sys.exit(int(code))


if __name__ == "__main__":
    main()
