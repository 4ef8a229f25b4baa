"""Asks the worker once for all cases."""

import json
import subprocess
from functools import cache
from typing import Any

import yaml

from tests.kit.charts.cases import BROKEN, CASES, REFUSED, UNSET
from tests.kit.wiring import ROOT

KSERVE = {"GROUP": "green", "FOLDER": "/models/support-bot.v7.bf16", "NAME": "support-bot.v7.bf16"}
CHART = ROOT / "deploy/helm/slipway"
PYTHON = ROOT / ".venv-charts/bin/python"


def filled(values: dict[str, str]) -> str:
    """Return the example's manifest as its script gives it to kubectl."""
    folder = ROOT / "examples/attached"
    script = (folder / "deploy_kserve.sh").read_text().replace("kubectl apply -f -", "cat")
    command = ["sh", "-c", script, str(folder / "deploy_kserve.sh"), *values.values()]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


@cache
def answers() -> dict[str, Any]:
    """Return what the worker found out about all cases; the environment is made if it is missing."""
    made = subprocess.run(
        [ROOT / "deploy/setup/environment.sh", "charts"], capture_output=True, text=True, timeout=240, check=False
    )
    assert made.returncode == 0, made.stderr
    request = {
        "chart": str(CHART),
        "cases": CASES,
        "refused": {name: values for name, (values, _) in REFUSED.items()} | UNSET,
        "broken": BROKEN,
        "examples": {"KServe": yaml.safe_load(filled(KSERVE))},
    }
    command = [str(PYTHON), str(ROOT / "tests/kit/charts/worker.py")]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
