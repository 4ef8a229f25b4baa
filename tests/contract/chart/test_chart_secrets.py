"""What pods of the chart read of secrets is what `python -m deploy.helm.secrets` writes: each name, key and path."""

from datetime import UTC, datetime

import pytest

from deploy.helm.secrets import contents
from deploy.identity.key_folder import KeyFolder
from tests.kit.charts.rendered import pods

PREFIX = "slipway-"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The secrets of an installation with people, backups and servers of its own, by name."""
    folder = KeyFolder(tmp_path_factory.mktemp("keys"))
    folder.prepare(["slipway-nats"], datetime(2026, 11, 1, tzinfo=UTC), ["slipway-store"])
    folder.add("ann", ["administrator"])
    folder.add("bob", ["operator", "approver"])
    secrets = dict(contents(folder.path, {"smoke": "ann", "backup": "ann"}, ["bob"], servers=True))
    return {PREFIX + name: content for name, content in secrets.items()}


def mounted(pod, container, written):
    """Return the files below the container's mounts of these secrets, and the paths of the mounts."""
    volumes = {each["name"]: each["secret"] for each in pod["volumes"] if "secret" in each}
    paths, files = set(), set()
    for mount in container["volumeMounts"]:
        secret = volumes.get(mount["name"])
        if secret is None or not secret["secretName"].startswith(PREFIX):
            continue
        content = written[secret["secretName"]]
        items = secret.get("items", [{"key": key, "path": key} for key in content])
        assert {item["key"] for item in items} <= set(content), (secret["secretName"], container["name"])
        paths.add(mount["mountPath"])
        files |= {f"{mount['mountPath']}/{item['path']}" for item in items}
    return paths, files


@pytest.mark.parametrize("case", ["trial", "external", "three-servers", "everything"])
def test_each_file_that_a_pod_is_told_to_read_is_in_a_secret_that_is_written(case, written):
    read = 0
    for name, pod in pods(case):
        for container in pod["containers"] + pod.get("initContainers", []):
            paths, files = mounted(pod, container, written)
            values = [each.get("value", "") for each in container.get("env", [])]
            named = {value for value in values if value.rpartition("/")[0] in paths}
            assert named <= files, name
            read += len(named)
    assert read > 60, "of twelve pods, five each"


@pytest.mark.parametrize("case", ["trial", "external", "everything"])
def test_each_key_that_is_an_environment_variable_is_in_a_secret_that_is_written(case, written):
    references = [
        each["valueFrom"]["secretKeyRef"]
        for _, pod in pods(case)
        for container in pod["containers"]
        for each in container.get("env", [])
        if "secretKeyRef" in each.get("valueFrom", {})
    ]
    own = [reference for reference in references if reference["name"].startswith(PREFIX)]
    assert len(own) == 2, "Triton and its agent"
    assert [each for each in own if each["key"] not in written[each["name"]]] == []
