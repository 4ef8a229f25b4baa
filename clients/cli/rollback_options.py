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
WithoutBusOption = Annotated[
    bool,
    typer.Option(
        "--without-bus",
        help="Order it at the gateways themselves, while they cannot reach the bus; takes an administrator's key.",
    ),
]
ReadOnlyBusOption = Annotated[
    bool,
    typer.Option(
        "--read-only-bus",
        help="With --without-bus: the bus answers and stores nothing, as on a full disk; gateways do not ask it.",
    ),
]
GatewayOption = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="With --without-bus: a gateway; repeatable, name all that serve the model."),
]
WaitOption = Annotated[bool, typer.Option(help="Wait for the end, and print the time of each step.")]
TimeoutOption = Annotated[float, typer.Option(help="Maximum time to wait, in seconds.", min=0.1)]
