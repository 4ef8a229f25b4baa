"""Write docs/licences.md from the metadata of the installed packages; refuse a licence that was not looked at.

    python -m deploy.setup.licences [--check]

requirements/licences.toml lists the licences that any package may have, and the packages that are accepted although
theirs is another or unknown, each with its reason. `--check` compares the page with the locks and that list, offline.
"""

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from deploy.setup.locks import end_if_wrong, read_pins

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path("docs/licences.md")
POLICY = Path("requirements/licences.toml")
TOOL = Path(".venv-audit/bin/pip-licenses")
ENVIRONMENTS = {
    "main": ".venv",
    "engine": ".venv-engine",
    "mlflow": ".venv-mlflow",
    "wandb": ".venv-wandb",
    "examples": ".venv-examples",
    "charts": ".venv-charts",
    "client-newest": ".venv-client-newest",
    "client-oldest": ".venv-client-oldest",
}
BUILDS = {
    "main": ["torch-cpu"],
    "engine": ["torch-cpu", "torchvision-cpu"],
    "examples": ["torch-cpu"],
    "client-newest": ["torch-cpu"],
}
"""Locks of builds that an environment has beside its own lock."""
OWN = "slipway"
LONGEST = 80
"""Characters; what is longer is the text of a licence, not its name."""
HEAD = """# Licences of the packages that Slipway installs

Written by `make licences` from the metadata of the environments; do not edit. `main` and `engine` are what Slipway
runs on, `wandb` is the mirror's client of W&B. The others are for tests and examples: `mlflow` (an MLflow server),
`examples` (training frameworks), `charts` (Helm and schemas of Kubernetes), `client-newest` and `client-oldest`
(training jobs with the newest and the oldest versions that the client supports). `requirements/licences.toml` lists the
licences that any package may have, and the reason for each package that has another one. torch is listed as its build
for CPUs; its build for CUDA comes with NVIDIA's libraries, under NVIDIA's own licences.

| package | licence | installed in | accepted because |
|---|---|---|---|
"""
ROW = re.compile(
    r"^\| (?P<package>[\w.-]+) \| (?P<licence>[^|]+) \| (?P<environments>[^|]+) \| (?P<reason>[^|]*) \|$", re.MULTILINE
)


@dataclass(frozen=True)
class Policy:
    """What was decided about licences."""

    permissive: frozenset[str]
    accepted: dict[str, str]
    """Reason by package."""

    @classmethod
    def read(cls, root: Path) -> "Policy":
        """Return the decisions of a tree."""
        table = tomllib.loads((root / POLICY).read_text())
        accepted = {str(canonicalize_name(name)): why for name, why in table["accepted"].items()}
        return cls(frozenset(table["permissive"]), accepted)

    def allows(self, licence: str) -> bool:
        """Return whether any package may have a licence: all parts of an AND, one of an OR."""
        parts = re.split(r";| AND ", licence.replace("(", "").replace(")", ""))
        return all(any(item.strip() in self.permissive for item in part.split(" OR ")) for part in parts)


def name_of_licence(package: dict[str, str]) -> str:
    """Return a package's licence as it names it best: expression, field, classifier; `unknown` if it names none."""
    for field in ("License-Expression", "License-Metadata", "License-Classifier"):
        value = " ".join(package[field].split()).replace("|", "/")
        if value not in ("", "UNKNOWN") and (field == "License-Expression" or len(value) <= LONGEST):
            return value
    return "unknown"


def assess(licences: dict[str, str], policy: Policy) -> list[str]:
    """Return what is wrong with the licences of packages, and which reasons belong to no package any more."""
    refused = {name: licence for name, licence in licences.items() if not policy.allows(licence)}
    wrong = [
        f"{name}: {licence}. Look at it; then add the licence, or the package with a reason, to {POLICY}"
        for name, licence in sorted(refused.items())
        if name not in policy.accepted
    ]
    unneeded = sorted(set(policy.accepted) - set(refused))
    return wrong + [f"{name}: its reason in {POLICY} is needed no more" for name in unneeded]


def page(installed: dict[str, dict[str, str]], policy: Policy) -> str:
    """Return the page of licences by package by environment."""
    rows = []
    for name in sorted({name for licences in installed.values() for name in licences}):
        where = [environment for environment, licences in installed.items() if name in licences]
        rows.append(f"| {name} | {installed[where[0]][name]} | {', '.join(where)} | {policy.accepted.get(name, '')} |")
    return HEAD + "\n".join(rows) + "\n"


def read_page(text: str) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Return licences by package, and packages by environment, of a page."""
    rows = [match.groupdict() for match in ROW.finditer(text) if match["package"] not in ("package", "---")]
    by_environment: dict[str, set[str]] = {name: set() for name in ENVIRONMENTS}
    for row in rows:
        for environment in row["environments"].split(", "):
            by_environment.setdefault(environment, set()).add(row["package"])
    return {row["package"]: row["licence"] for row in rows}, by_environment


def findings(root: Path = ROOT) -> list[str]:
    """Return where page, locks and decisions of a tree disagree; looks at nothing that is installed."""
    licences, by_environment = read_page((root / PAGE).read_text())
    wrong = assess(licences, Policy.read(root))
    for environment, names in by_environment.items():
        locks = [environment, *BUILDS.get(environment, ())]
        pins = [pin for lock in locks for pin in read_pins((root / f"requirements/{lock}.txt").read_text())]
        always = {pin.name for pin in pins if " ; " not in pin.text}  # without what some versions of Python need
        wrong += [f"{PAGE}: {name} is missing from {environment}" for name in sorted(always - names)]
        wrong += [f"{PAGE}: {name} is no longer in {environment}" for name in sorted(names - {p.name for p in pins})]
    return wrong


def _installed_in(environment: str) -> dict[str, str]:
    python = ROOT / environment / "bin/python"
    command = [str(ROOT / TOOL), f"--python={python}", "--from=all", "--format=json", "--with-system"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    packages = json.loads(done.stdout)
    named = {canonicalize_name(package["Name"]): name_of_licence(package) for package in packages}
    return {name: licence for name, licence in named.items() if name != OWN}


def main() -> None:
    """Write the page, or compare it with `--check`."""
    if "--check" not in sys.argv[1:]:
        installed = {name: _installed_in(folder) for name, folder in ENVIRONMENTS.items()}
        (ROOT / PAGE).write_text(page(installed, Policy.read(ROOT)))
    end_if_wrong(
        findings(), "Licences are not as decided: correct what is named, run `make licences`, and commit the result."
    )


if __name__ == "__main__":
    main()
