"""`slipway doctor`: check the requirements of a stack, as `slipway up` does before a start."""

from dataclasses import asdict, astuple
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.connection import find_stack
from clients.cli.doctor.checks import Subject, run_checks
from clients.cli.doctor.findings import passed
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import Exit, show_json, show_line, show_table
from clients.cli.settings import CliSettings
from deploy.local.plan import StackConfig
from deploy.local.state import StateFolder
from deploy.local.supervisor import default_engine_root

COLUMNS = ("check", "state", "detail", "advice")


def doctor(
    *,
    engine_env: Annotated[
        Path | None, typer.Option(help="Python environment with Triton and vLLM (default: .venv-engine).")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine and the stack: one line per check, with what to do. Exit code 1 if a check fails."""
    settings = CliSettings()
    elsewhere = None
    if state is None and settings.nats_url is not None:
        elsewhere = find_stack(None).connection
    subject = Subject(
        folder=StateFolder(state or settings.state),
        config=StackConfig(),
        engine_root=engine_env or settings.engine_env or default_engine_root(),
        elsewhere=elsewhere,
    )
    findings = run_checks(subject)
    if as_json:
        show_json({"ok": passed(findings), "findings": [asdict(finding) for finding in findings]})
    else:
        show_table(COLUMNS, [astuple(finding) for finding in findings])
    if not passed(findings):
        raise typer.Exit(int(Exit.FAILED))


def preflight(folder: StateFolder, config: StackConfig, engine_root: Path) -> None:
    """Run the checks before a stack is started; print warnings and failures, and end if a check fails."""
    findings = run_checks(Subject(folder, config, engine_root))
    if shown := [astuple(finding) for finding in findings if finding.state != "ok"]:
        show_table(COLUMNS, shown)
    if not passed(findings):
        show_line(
            "the stack was not started; see `slipway doctor`, or skip the checks with `slipway up --no-preflight`"
        )
        raise typer.Exit(int(Exit.FAILED))
