"""Compares small computations with what they must give: torch in this environment, vLLM in the engine's."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clients.cli.doctor.assess import Numbers, assess_engine_numbers, assess_numbers
from clients.cli.doctor.findings import Finding, failure
from deploy.local import triton
from deploy.local.supervisor import ROOT
from deploy.local.view import last_lines
from shared.errors import SlipwayError
from shared.runtime.exits import describe_exit
from shared.runtime.jobs import run_job
from shared.runtime.process import child_command, terminate_tree

SELF_CHECK = "services.quantiser.adapters.self_check"
ENGINE_CHECK = ROOT / "deploy/backends/doctor/score.py"
TORCH_S, ENGINE_S = 180.0, 300.0
LOG_LINES = 3


def check_torch(folder: Path) -> Finding:
    """Compute a small model in each precision that measurements use; leave it in the folder for the engine."""
    try:
        detail = asyncio.run(_measure(folder))
    except SlipwayError as error:
        return failure("numbers", error.reason, "run `make setup`; see docs/runbooks/quality.md")
    return assess_numbers(Numbers(**detail))


async def _measure(folder: Path) -> dict[str, Any]:
    async def ignore(_progress: dict[str, Any]) -> None:
        """It takes seconds, and reports nothing."""

    return await run_job(
        [sys.executable, "-m", SELF_CHECK, str(folder)],
        on_progress=ignore,
        log_path=folder / "torch.log",
        timeout_s=TORCH_S,
        env={"PYTHONPATH": str(ROOT)},
    )


def check_engine(folder: Path, engine: triton.EngineEnvironment, inherited: Mapping[str, str]) -> Finding:
    """Let vLLM score a text with the models that `check_torch` left, and compare."""
    log = folder / "engine.log"
    command = [str(engine.root / "bin" / "python"), "-P", str(ENGINE_CHECK), str(folder)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            child_command(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=triton.build_environment(engine, folder, inherited),
            cwd=folder,
        )
    try:
        process.wait(ENGINE_S)
    except subprocess.TimeoutExpired:
        terminate_tree(process.pid)
        process.wait()
        advice = "see docs/runbooks/engine.md"
        return failure("engine numbers", f"vLLM did not answer about two small models within {ENGINE_S:g} s", advice)
    if process.returncode != 0:
        detail = f"vLLM ended with {describe_exit(process.returncode)}"
        return failure("engine numbers", detail, f"its log ends with: {' | '.join(last_lines(log, LOG_LINES))}")
    return assess_engine_numbers(json.loads((folder / "differences.json").read_text()))
