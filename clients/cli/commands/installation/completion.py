"""`slipway completion`: the script by which a shell completes commands and options."""

from typing import Annotated, Literal

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # has no __all__

from clients.cli.output import show_line

PROGRAM = "slipway"


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print the script with which a shell completes commands and options.

    bash: `slipway completion bash > ~/.local/share/bash-completion/completions/slipway`. zsh: write it to `_slipway` in
    a folder of `$fpath`. fish: `slipway completion fish > ~/.config/fish/completions/slipway.fish`.
    """
    show_line(get_completion_script(prog_name=PROGRAM, complete_var=f"_{PROGRAM.upper()}_COMPLETE", shell=shell))
