"""docs/kubernetes.md: what its tables and sentences say about the chart is what the chart has."""

import re

import pytest

from deploy.helm.scaling import SCALED
from deploy.helm.values import Resources, ScaledService, Values, Volume
from tests.kit.charts.cases import CASES, REFUSED
from tests.kit.charts.rendered import containers
from tests.kit.wiring import ROOT

PAGE = (ROOT / "docs/kubernetes.md").read_text()
WORDS = {6: "six", 7: "seven", 8: "eight", 9: "nine"}
KEPT = {"emptyDir": "scratch", "ephemeral": "with its pod", "persistent": "kept"}


def table(head: str) -> dict[str, list[str]]:
    """Return the rows of the table with this head, by their first cell."""
    _, separator, text = PAGE.partition(head)
    assert separator, f"the page has no table that begins with {head}"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("\n\n")[0].splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def sizes() -> dict[str, list[str]]:
    """Return the rows of the sizing table, one for each service."""
    rows = table("| service | replicas |")
    return {name.strip(): row for names, row in rows.items() for name in names.split(",")}


def in_words(quantity: str | int) -> str:
    """Return a quantity as the page has it: 256Mi is 256 MiB, 100m are 0.1 cores."""
    text = str(quantity)
    return f"{int(text[:-1]) / 1000:g}" if text.endswith("m") else re.sub(r"([KMGT]i)$", r" \1B", text)


def assert_resources(row: list[str], resources: Resources, name: str) -> None:
    requests = f"{in_words(resources.requests['cpu'])}, {in_words(resources.requests['memory'])}"
    assert row[1].removesuffix(", 1 GPU") == requests, name
    assert row[2] == in_words(resources.limits["memory"]), name


def test_the_page_counts_the_sets_of_values():
    assert f"{len(REFUSED)} bad sets of values" in PAGE
    assert set(re.findall(r"(?:over|of) the (\w+) sets", PAGE)) == {WORDS[len(CASES)]}
    assert f"with {WORDS[len(CASES)]} sets of values" in PAGE


@pytest.mark.parametrize(
    "name", [name for name in Values().services.model_fields if name not in ("mirror", "notifier")]
)
def test_the_sizing_table_has_the_defaults_of_a_service(name):
    service, name = getattr(Values().services, name), name.replace("_", "-")
    row = sizes()[name]
    scaled = f"; KEDA {service.min_replicas} to {service.max_replicas}" if isinstance(service, ScaledService) else ""
    assert row[0].removesuffix(" (one acts)") == f"{service.replicas}{scaled}"
    assert_resources(row, service.resources, name)
    state: Volume = service.state
    parted = " " if state.kind == "emptyDir" else ", "
    assert row[3] == (
        "Triton's claim" if name == "server-manager" else f"{in_words(state.size)}{parted}{KEPT[state.kind]}"
    )


def test_the_sizing_table_has_the_defaults_of_what_is_no_service():
    values, rows = Values(), sizes()
    assert_resources(rows["provisioner"], values.provisioner.resources, "provisioner")
    for name, part in (("agent", values.triton.agent), ("triton", values.triton)):
        assert_resources(rows[name], part.resources, name)
        assert rows[name][3] == f"{in_words(part.volume.size)}, kept"
    assert rows["triton"][1].endswith(f", {values.triton.gpus} GPU")


@pytest.mark.parametrize("name", SCALED)
def test_the_table_of_thresholds_has_the_measured_times_and_what_follows_from_them(name):
    work, (takes, waits, threshold) = SCALED[name], table("| service | one message takes |")[name]
    assert takes.startswith(f"{work.service_s:g} s" if work.service_s >= 1 else f"{work.service_s * 1000:.0f} ms")
    assert waits == f"{work.wait_s:g} s"
    assert int(threshold) == work.lag
    assert "assumed" not in takes


def test_the_monitors_time_is_that_of_the_page_of_scale():
    (records,) = re.findall(
        r"([\d,.]+) a second \| `large_records` \|$", (ROOT / "docs/scale.md").read_text(), re.MULTILINE
    )
    assert SCALED["monitor"].service_s == pytest.approx(500 / float(records.replace(",", "")), rel=0.01)


def test_the_images_that_the_page_loads_are_those_of_its_first_installation():
    (named,) = re.findall(r"^for image in (.*); do$", PAGE, re.MULTILINE)
    images = {container["image"].partition("slipway-")[2].partition(":")[0] for _, container in containers("trial")}
    assert set(named.split()) == images
