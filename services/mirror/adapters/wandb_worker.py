"""Logs one W&B artifact, described by JSON on standard input; runs in W&B's own environment.

It imports nothing of Slipway, because that environment has only W&B.
"""

import importlib
import json
import sys
from typing import Any


def log(wandb: Any, order: dict[str, Any]) -> None:
    """Log the artifact and wait until W&B has it; offline, until its files are on disk."""
    settings = wandb.Settings(
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        init_timeout=order["call_s"],
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
    )
    run = wandb.init(
        project=order["project"],
        entity=order["entity"],
        mode=order["mode"],
        dir=order["folder"],
        job_type="slipway-mirror",
        settings=settings,
    )
    artifact = wandb.Artifact(order["name"], type="model", description=order["description"], metadata=order["metadata"])
    for name, text in order["files"].items():
        with artifact.new_file(name, mode="w", encoding="utf-8") as file:
            file.write(text)
    logged = run.log_artifact(artifact, aliases=order["aliases"])
    if order["mode"] == "online":
        logged.wait(timeout=order["call_s"])
    run.finish()


if __name__ == "__main__":
    log(importlib.import_module("wandb"), json.load(sys.stdin))
