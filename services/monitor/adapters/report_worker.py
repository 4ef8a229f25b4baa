"""Child process that renders a drift report with Evidently: reads `rows.json`, writes `report.html` and `.json`."""

import json
from pathlib import Path
from typing import Any

from shared.runtime.worker import confine, job_main

LARGEST_FILE_BYTES = 1024**3


def render(argv: list[str]) -> dict[str, Any]:
    """Render the report in the folder `argv[0]`; return Evidently's p-value per column."""
    folder = Path(argv[0])
    confine(write=[folder], file_bytes=LARGEST_FILE_BYTES)
    import pandas as pd  # type: ignore[import-untyped]
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    rows = json.loads((folder / "rows.json").read_text())
    names = sorted(rows["current"])
    definition = DataDefinition(numerical_columns=names)
    reference, current = (
        Dataset.from_pandas(pd.DataFrame({name: rows[side][name] for name in names}), data_definition=definition)
        for side in ("reference", "current")
    )
    # The method is pinned: above 1000 reference rows the default turns from a p-value into a distance.
    metrics = [ValueDrift(column=name, method="ks", threshold=rows["alpha"]) for name in names]
    report = Report(metrics).run(current, reference)
    report.save_html(str(folder / "report.html"))
    (folder / "report.json").write_text(report.json())
    values = [metric["value"] for metric in json.loads(report.json())["metrics"]]
    return {"p_values": dict(zip(names, map(float, values), strict=True))}


if __name__ == "__main__":
    job_main(render)
