"""The monitor's image leaves libraries out that Evidently names; a drift report is rendered without them."""

import json
import random
import subprocess
import sys

from tests.kit.wiring import ROOT

OVERRIDES = ROOT / "deploy/docker/requirements/reports-overrides.txt"
PROGRAM = """
import sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(",")))  # an import of one of them fails
from shared.runtime.worker import job_main
from services.monitor.adapters.report_worker import render
job_main(render)
"""


def left_out() -> list[str]:
    lines = OVERRIDES.read_text().splitlines()
    return [line.partition(";")[0].strip() for line in lines if line and not line.startswith("#")]


def test_a_report_is_rendered_without_the_libraries_that_the_image_leaves_out(tmp_path):
    draw = random.Random(3)
    rows = {
        side: {name: [draw.gauss(mean, 1) for _ in range(300)] for name in ("chars", "words")}
        for side, mean in (("reference", 0), ("current", 1))
    }
    (tmp_path / "rows.json").write_text(json.dumps({"alpha": 0.05, **rows}))
    names = left_out()
    assert names
    command = [sys.executable, "-c", PROGRAM, ",".join(names), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert all(metric["value"] < 0.05 for metric in json.loads((tmp_path / "report.json").read_text())["metrics"])
    assert "<html" in (tmp_path / "report.html").read_text().lower()
