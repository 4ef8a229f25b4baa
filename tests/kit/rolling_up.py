"""`slipway up` with an interpreter of its own for the parts: `python -m tests.kit.rolling_up PYTHON up --engine toy …`.

The interpreter is a program that chooses the checkout which each part runs from (`tests.kit.rolling_stack`).
"""

import argparse
import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

from clients.cli.commands.stack import inherited_variables, parse_engine, parse_replicas
from deploy.local.plan import StackConfig
from deploy.local.state import StateFolder
from deploy.local.supervisor import CannotStart, Options, Supervisor, default_engine_root, programs_of
from deploy.local.view import View
from shared.runtime.clock import SystemClock


def main() -> None:
    """Read the arguments of `slipway up`, and keep the stack running."""
    parser = argparse.ArgumentParser()
    parser.add_argument("python", type=Path)
    parser.add_argument("command", choices=["up"])
    parser.add_argument("--engine", required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--replicas", action="append", default=[])
    given = parser.parse_args()
    config = StackConfig(parse_engine(given.engine, None), parse_replicas(given.replicas))
    programs = replace(programs_of(Path(sys.executable)), python=given.python)
    options = Options(config, programs, default_engine_root(), inherited_variables(os.environ))
    try:
        asyncio.run(Supervisor(StateFolder(given.state), options, View(quiet=False), SystemClock()).run())
    except CannotStart as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
