"""`slipway doctor`: check the requirements of a stack; `slipway up` runs them, too."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.connection import find_stack
from clients.cli.doctor.checks import Subject, plan_checks, run_check
from clients.cli.doctor.findings import as_line, as_row, passed, summary
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import Exit, is_terminal, show_json, show_line
from clients.cli.settings import CliSettings
from deploy.local.plan import StackConfig
from deploy.local.state import StateFolder
from deploy.local.supervisor import default_engine_root

NAME_WIDTH = max(len(name) for name in ("engine packages", "shared memory"))


def doctor(
    *,
    engine_env: Annotated[
        Path | None, typer.Option(help="Python environment with Triton and vLLM (default: .venv-engine).")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, or the running stack: one line per check, with what to do. Exit code 1 if a check fails."""
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
    findings = []
    for check in plan_checks(subject):
        findings.append(finding := run_check(check))
        if not as_json:
            show_line(as_line(finding, NAME_WIDTH) if is_terminal() else as_row(finding))
    if as_json:
        show_json({"ok": passed(findings), "findings": [asdict(finding) for finding in findings]})
    elif is_terminal():
        show_line(summary(findings))
    if not passed(findings):
        raise typer.Exit(int(Exit.FAILED))


def preflight(folder: StateFolder, config: StackConfig, engine_root: Path) -> None:
    """Run the checks before a stack is started; print warnings and failures, and end if a check fails."""
    subject = Subject(folder, config, engine_root)
    findings = [run_check(check) for check in plan_checks(subject)]
    for finding in findings:
        if finding.state in ("warning", "failure"):
            show_line(as_line(finding, NAME_WIDTH))
    if not passed(findings):
        show_line(
            "the stack was not started; see `slipway doctor`, or skip the checks with `slipway up --no-preflight`"
        )
        raise typer.Exit(int(Exit.FAILED))
