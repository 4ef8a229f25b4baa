"""Write the rendered chart, a folder for each set of values, for tools that read files: `… -m tests.kit.charts.write FOLDER`."""

import sys
from pathlib import Path

import yaml

from tests.kit.charts.cases import CASES
from tests.kit.charts.rendered import objects


def main(folder: Path) -> None:
    for case in CASES:
        (folder / case).mkdir(parents=True, exist_ok=True)
        (folder / case / "objects.yaml").write_text(yaml.safe_dump_all(objects(case), sort_keys=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
