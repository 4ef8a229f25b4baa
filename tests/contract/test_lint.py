"""`python -m testbed.lint` finds what its rules are for, in a copy of the repository with defects."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from testbed.lint.tree import ROOT, committed

DEFECTS = {
    "README.md": ("\n`slipway deadletters shift` [a](docs/no-such.md) [b](README.md#no-such)\n", 3),
    "docs/operations.md": (
        "\n`SLIPWAY_NO_SUCH`, `slipway_gateway_no_such_total`, `slipway.requested.v1`, `make no-such`\n",
        4,
    ),
    "docs/comparison.md": (
        "\n`testbed/no_such.py` `test_no_such.py`\n\n```python\nreturn = 1\n```\n\n```yaml\ntriggers: 1\n```\n",
        4,
    ),
    "docs/reliability.md": (
        (
            "\n| promise | test or command | result |\n|---|---|---|\n| Fast | `tests/no/such` | yes |\n"
            "\n| pledge | test | result |\n|---|---|---|\n| Fast | `tests/no/such` | yes |\n"
        ),
        2,
    ),
    "docs/runbooks/variant.md": ("\n- `no_such_code`: nothing to type.\n", 1),
    "docs/runbooks/README.md": ("", 1),
    "docs/adr/0999-no-such.md": ("# Not in the index\n", 1),
    "docs/triggers.md": ("\n| `no_such` | text | latency | `delay` |\n", 1),
    "services/monitor/README.md": ("\n`domain/no_such.py`\n", 1),
    "services/monitor/app.py": ("\n\nKEY = os.environ['KEY']\nOTHER = '/t" + "mp/x'\n", 2),
    "services/notifier/app.py": (
        "\n\n@bus.on(1)\nasync def f():\n    try:\n        g()\n    except Conflict:\n        pass\n",
        2,
    ),
    "services/merger/no_such.py": ("x = 1\n" * 401, 1),
    "contracts/codes.py": ("\n\ndef decide_it(route):\n    return route.model_copy()\n", 3),
    "shared/no_such.py": (
        "'''A'''\n\n\ndef f():\n    " + '"' * 3 + 'Give docs/no-such.md."""\n    road = dict(preexec_' + "fn=None)\n",
        4,
    ),
    "tests/integration/test_sleeping.py": (
        "time.sleep(1)\ntime.sleep(1)  # it is what is tested\nwhile f():\n    time.sleep(1)\n",
        1,
    ),
    "clients/key.pem": ("\n-----BEGIN PRIVATE" + " KEY-----\n", 2),
}
"""By file: what is appended, and how many problems that is."""
CHANGED = {
    "docs/kubernetes.md": ("| registry, rollback-controller | 2 ", "| registry | 3 ", 2),
    "docs/glossary.md": (
        "| term | meaning |\n|---|---|\n",
        "| term | meaning |\n|---|---|\n| zebra | An animal. |\n",
        1,
    ),
    "services/console/settings.py": ("frozen=True", "frozen=False", 1),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "testbed.lint"]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_each_defect_is_listed_at_its_place(tmp_path):
    for name in committed():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name, (text, _) in DEFECTS.items():
        with (tmp_path / name).open("a") as file:
            file.write(text)
    for name, (before, after, _) in CHANGED.items():
        text = (tmp_path / name).read_text()
        assert before in text, name
        (tmp_path / name).write_text(text.replace(before, after, 1))
    for command in (["init", "--quiet"], ["add", "--force", "--all"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, timeout=60)
    done = lint(tmp_path)
    assert done.returncode == 1, done.stderr
    found = [line.partition(":")[0] for line in done.stdout.splitlines()]
    expected = {name: count for name, (*_, count) in [*DEFECTS.items(), *CHANGED.items()]}
    assert {name: found.count(name) for name in {*found, *expected}} == expected, done.stdout
