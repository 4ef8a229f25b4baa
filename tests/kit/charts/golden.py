"""Writes what the chart renders to as agreed: `python -m tests.kit.charts.golden`; look at the difference."""

import yaml

from tests.kit.charts.cases import CASES
from tests.kit.charts.rendered import GOLDEN, RENDERED, find, objects


def main() -> None:
    """Write the lists of all cases, and the text of some objects."""
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        listed = sorted(f"{each['kind']} {each['metadata']['name']}" for each in objects(case))
        (GOLDEN / f"{case}.txt").write_text("\n".join(listed) + "\n")
    for case, which in RENDERED.items():
        text = yaml.safe_dump_all([find(case, *each) for each in which], sort_keys=False, width=120)
        (GOLDEN / f"{case}.yaml").write_text(text)


if __name__ == "__main__":
    main()
