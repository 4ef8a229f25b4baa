"""Options of `slipway rollback`."""

from typing import Annotated

import typer

ToOption = Annotated[
    str | None,
    typer.Option("--to", metavar="vN", help="Roll back to this earlier version (default: to the previous target)."),
]
TargetOption = Annotated[
    str | None,
    typer.Option(help="Target to roll back: MODEL.vN.variant, MODEL@vN or MODEL@candidate (default: the active one)."),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Show what the rollback would do; change nothing. Exit code 1 if refused."),
]
DecidedArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]", help="After `confirm` or `return`: the model whose suspended version is decided about."
    ),
]
AtOnceOption = Annotated[
    bool, typer.Option("--at-once", help="After `return`: all traffic now, not as a canary through the policy's steps.")
]
WaitOption = Annotated[bool, typer.Option(help="Wait for the end, and print the time of each step.")]
TimeoutOption = Annotated[float, typer.Option(help="Maximum time to wait, in seconds.", min=0.1)]
