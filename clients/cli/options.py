"""Options and arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

StateOption = Annotated[
    Path | None, typer.Option("--state", help="State folder of the embedded stack (default: $SLIPWAY_STATE or .state).")
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
