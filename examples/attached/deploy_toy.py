"""Lets toy servers answer by the name of a version, as the deployment of a real one would.

python -m examples.attached.deploy_toy GROUP FOLDER NAME URL…
"""

import json
import sys
from pathlib import Path
from urllib.request import Request, urlopen


def main() -> None:
    _group, folder, name, *urls = sys.argv[1:]
    assert (Path(folder) / "config.json").is_file(), f"{folder} has no model"
    for url in urls:
        body = json.dumps({name: {}}).encode()
        urlopen(Request(f"{url}/toy", body, {"content-type": "application/json"}, method="PUT"), timeout=10).close()


if __name__ == "__main__":
    main()
