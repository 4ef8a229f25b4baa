"""Asks the worker once for all cases."""

import json
import subprocess
from functools import cache
from typing import Any

from tests.kit.charts.cases import BROKEN, CASES, REFUSED, UNSET
from tests.kit.wiring import ROOT

CHART = ROOT / "deploy/helm/slipway"
PYTHON = ROOT / ".venv-charts/bin/python"


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
    }
    command = [str(PYTHON), str(ROOT / "tests/kit/charts/worker.py")]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
