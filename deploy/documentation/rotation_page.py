"""The table of jobs that are left out of `make test`: when each passed last."""

import csv
from pathlib import Path

from deploy.documentation.markdown import code, escape, table

ROOT = Path(__file__).resolve().parents[2]


def render() -> str:
    """Return one row for each job of tests/rotation.tsv."""
    with (ROOT / "tests/rotation.tsv").open() as file:
        jobs = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [
        (escape(job["job"]), job["passed"], "" if job["commit"] == "-" else code(job["commit"]), job["seconds"])
        for job in jobs
    ]
    return table(("job", "passed last (UTC)", "at commit", "seconds"), rows)
