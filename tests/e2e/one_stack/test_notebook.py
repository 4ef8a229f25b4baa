"""The notebook of the training client, cell by cell as it stands, from an empty folder."""

import json
import os
import subprocess
import sys

import pytest

from testbed.stack import ROOT

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(600)]
NOTEBOOK = ROOT / "examples/training/follow_release.ipynb"


def test_the_notebook_publishes_waits_and_reads_measurements_and_alerts(shell, empty_stack):
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    shell("slipway sample-lora sample")
    lines = ["".join(cell["source"]).replace("slipway_client", "clients.training") for cell in cells]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, "assert release.promoted, release", "print(release.benchmarks)"])],
        cwd=shell.folder,
        env={**os.environ, **empty_stack.ask_json("env"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{empty_stack.tail()}"
    assert "notebook-bot v1 promoted" in done.stdout
    assert "bf16 error_ratio.max_value pass" in done.stdout
