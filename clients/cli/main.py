"""The `slipway` command: its commands are functions of their own modules, put together here."""

import typer

from clients.cli import stack
from clients.cli.say import EXIT_CODES

app = typer.Typer(
    name="slipway",
    help=f"From fine-tuned checkpoint to production traffic, and safely back.\n\n{EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(stack.up)
app.command()(stack.ps)
app.command()(stack.down)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
