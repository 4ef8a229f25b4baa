"""Pages that follow the code: runbooks, triggers, services, references, glossary, sizes of the chart, promises."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import get_args

import yaml

from contracts.codes import Code
from contracts.facts.progress import Outcome
from contracts.facts.watch import AlertKind
from contracts.policy import Objective, Trigger
from contracts.services import SERVICES
from contracts.trigger_metrics import METRICS
from decisions.evidence.alerts import RUNBOOKS
from decisions.rollback.drills import describe_fault
from deploy.documentation import policy_page, settings_page
from services.rollback_controller.domain.rehearsal_plan import plan_fault
from testbed.lint.tree import ROOT, committed, files, problem, text, unknown

FAMILIES = ("admission", "checkpoint", "variant", "serving", "release", "rollback")
ENTRY = re.compile(r"^- `([a-z_]+)`: (.+(?:\n  .+)*)", re.MULTILINE)
TESTED = re.compile(r"`((?:tests/[\w/]+/)?test_\w+\.py|tests/[\w/]+|(?:python )?(?:-m )?benchmarks[./]\w+(?:\.py)?)")
OFF_BY_DEFAULT = ("mirror", "notifier")
KEPT = {"emptyDir": " scratch", "ephemeral": ", with its pod", "persistent": ", kept"}


def runbooks() -> Iterator[str]:
    """Yield codes and alerts without exactly one entry or page of a runbook, and entries that name no command."""
    entries: Counter[str] = Counter()
    for path in (f"docs/runbooks/{family}.md" for family in FAMILIES):
        for match in ENTRY.finditer(text(path)):
            entries[match[1]] += 1
            if "`slipway " not in match[2]:
                yield problem(path, match, f"the entry of {match[1]} names no command")
    for code in {*get_args(Code), *entries}:
        if entries[code] != (code in get_args(Code)):
            yield problem("docs/runbooks/README.md", 1, f"{code} has {entries[code]} entries in {', '.join(FAMILIES)}")
    for kind in get_args(AlertKind):
        if RUNBOOKS[kind] != f"docs/runbooks/{kind}.md" or RUNBOOKS[kind] not in committed():
            yield problem("decisions/evidence/alerts.py", 1, f"the alert {kind} has no page docs/runbooks/{kind}.md")


def triggers() -> Iterator[str]:
    """Yield metrics that docs/triggers.md lists with another kind of alert, another fault, or not at all."""
    path = "docs/triggers.md"
    page = text(path)
    rows = {match[1]: match for match in re.finditer(r"^\| `(\w+)` \|.*\| (\w+) \| `([\w=]+)` \|$", page, re.MULTILINE)}
    metrics = {metric for metric, rule in METRICS.items() if rule.limits != "distance"}
    yield from (problem(path, 1, f"the tables and the contract differ in {metric}") for metric in {*rows} ^ metrics)
    for metric, match in ((metric, rows[metric]) for metric in sorted(metrics & {*rows})):
        threshold = -2.0 if metric == "logprob_mean" else 0.5
        planned = plan_fault(Trigger(name="t", metric=metric, threshold=threshold))
        fault = describe_fault(planned) if planned else "none"
        rule = METRICS[metric]
        if match[2] != rule.kind or not fault.startswith(match[3]):
            yield problem(path, match, f"{metric} raises {rule.kind} and is rehearsed by {fault}")
        if (match.start() < page.index("Or the threshold bounds")) != (rule.limits == "figure"):
            yield problem(path, match, f"{metric} is in the table of the other kind of threshold")


def services() -> Iterator[str]:
    """Yield files, consumed and emitted events that the pages of services name wrongly; services without a visit."""
    for path in files("services/", suffix="/README.md"):
        folder = path.removesuffix("README.md")
        known = {*committed(), *(file.removeprefix(folder) for file in files(folder))}
        yield from unknown(path, re.compile(r"`([a-z_/]+\.py)`"), known.__contains__, "file")
        service = SERVICES[folder.split("/")[1].replace("_", "-")]
        for row, facts in (("consumes", service.consumes), ("emits", service.emits)):
            cells = "".join(re.findall(rf"^\| {row} \| (.*) \|$", text(path), re.MULTILINE))
            named = set(re.findall(r"`([a-z]+\.[a-z_]+)`", cells))
            declared = {fact.TYPE.removeprefix("slipway.").rpartition(".")[0] for fact in facts}
            declared = {name for name in declared if "." in name}
            if declared - named or (named - declared and service.name != "console"):  # it sends orders of people
                yield problem(path, 1, f"{row}: {sorted(named)}, but the contract has {sorted(declared)}")
        if f"(../{folder}" not in text("docs/architecture.md"):
            yield problem("docs/architecture.md", 1, f"the way of a checkpoint leaves {folder} out")


def references() -> Iterator[str]:
    """Yield settings classes that the reference leaves out, fields of policies without a text, terms out of order."""
    described = {kind.__name__ for kind in settings_page.settings_classes()} | {"WorkerSettings"}
    for path in files("services/", "shared/", "clients/cli/"):
        pattern = re.compile(r"^class (\w+)\((?:BaseSettings|WorkerSettings|SourceSettings)\)", re.MULTILINE)
        yield from unknown(path, pattern, described.__contains__, "in the reference the settings class")
    for row in policy_page.render().splitlines():
        if row.startswith("| `") and not row.split(" | ", 3)[3].strip(" |"):
            yield problem("contracts/policy.py", 1, f"the field has no text below it: {row}")
    path = "docs/glossary.md"
    terms = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text(path), re.MULTILINE)[1:])
    names = [name.casefold() for name in terms]
    if names != sorted(set(names)):
        yield problem(path, 1, "terms stand once, in alphabetical order")
    for term, values in (("release", get_args(Outcome)), ("objective", get_args(Objective))):
        listed = re.findall(r"[a-z]+", terms[term].rpartition(": ")[2].replace(" or ", ", "))
        if listed != list(values):
            yield problem(path, 1, f"{term} lists {listed}, the contract has {list(values)}")


def _table(head: str) -> dict[str, list[str]]:
    """Return the rows of a table of docs/kubernetes.md by each name of their first cell."""
    _, _, rest = text("docs/kubernetes.md").partition(head)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in rest.split("\n\n")[0].splitlines()[2:]]
    return {name.strip(): row[1:] for row in rows for name in row[0].split(",")}


def _in_words(quantity: str | int) -> str:
    """Return a quantity as the page has it: 256Mi is 256 MiB, 100m are 0.1 cores."""
    size = str(quantity)
    return f"{int(size[:-1]) / 1000:g}" if size.endswith("m") else re.sub(r"([KMGT]i)$", r" \1B", size)


def sizes() -> Iterator[str]:
    """Yield defaults of the chart that docs/kubernetes.md gives otherwise, or not at all."""
    values, rows = yaml.safe_load(text("deploy/helm/slipway/values.yaml")), _table("| service | replicas |")
    parts = {**values["services"], "provisioner": values["provisioner"]}
    parts |= {"agent": values["triton"]["agent"], "triton": values["triton"]}
    for name, part in parts.items():
        volume, resources = part.get("state") or part.get("volume"), part["resources"]
        wanted = {
            0: f"{part.get('replicas', 1)}",
            1: ", ".join(_in_words(resources["requests"][resource]) for resource in ("cpu", "memory")),
            2: _in_words(resources["limits"]["memory"]),
            3: f"{_in_words(volume['size'])}{KEPT[volume.get('kind', 'persistent')]}" if volume else "none",
        }
        if "maxReplicas" in part:
            wanted[0] += f"; KEDA {part['minReplicas']} to {part['maxReplicas']}"
        if name not in rows and name not in OFF_BY_DEFAULT:
            yield problem("docs/kubernetes.md", 1, f"{name} has no row in the table of sizes")
        for cell, expected in wanted.items() if name in rows else ():
            found = re.sub(r" \(one acts\)|, 1 GPU", "", rows[name][cell])
            if found not in (expected, "Triton's claim"):
                yield problem("docs/kubernetes.md", 1, f"{name} has {found}, the chart has {expected}")
    for name, lag in values["keda"]["lag"].items():
        if _table("| service | one message takes |")[name][-1] != str(lag):
            yield problem("docs/kubernetes.md", 1, f"{name}: the chart has a threshold of {lag}")


def promises() -> Iterator[str]:
    """Yield promises of docs/reliability.md without a test or command that exists."""
    path = "docs/reliability.md"
    for head in re.finditer(r"^\| (.*) \|\n\|[-|]+$", text(path), re.MULTILINE):
        if head[1] not in ("promise | test or command | result", "what | figure | command or test"):
            yield problem(path, head, f"a table here has promises, or figures: {head[1]}")
    for table in re.finditer(r"^\| promise \|.*\n\|[-|]+\n((?:\|.*\n)+)", text(path), re.MULTILINE):
        for row in table[1].splitlines():
            cells, folder = row.strip("| ").split(" | "), ""
            tests = TESTED.findall(cells[1])
            if len(cells) != 3 or not (tests or "`make " in cells[1]):
                yield problem(path, table, f"a promise has a test or command and a result: {cells[0]}")
            for test in tests:
                name = re.sub(r"^(?:python )?(?:-m )?", "", test)
                name = f"{name.replace('.', '/')}.py" if name.startswith("benchmarks.") else name
                name = name if "/" in name else f"{folder}/{name}"  # in the folder of the one before it
                folder = name.rpartition("/")[0]
                if not (ROOT / name).exists():
                    yield problem(path, table, f"{name} of this table does not exist")


CHECKS = (runbooks, triggers, services, references, sizes, promises)
