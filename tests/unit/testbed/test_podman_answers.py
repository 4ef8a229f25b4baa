"""What podman says of containers that come and go, by a program that answers as podman does."""

import os

import pytest

from testbed.containers import engine

PODMAN = """#!/bin/sh
if [ "$1" = ps ]; then
  %s
  echo lasting; echo leaving; exit
fi
echo '%s'
echo 'Error: no such container leaving' >&2
exit 125
"""


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Put a podman in front of the one of this machine, which knows some of the containers that it lists."""

    def put(known: str, lists: str = ":") -> None:
        program = tmp_path / "podman"
        program.write_text(PODMAN % (lists, known))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return put


def test_a_container_that_is_removed_between_two_looks_hides_no_other_one(answers):
    answers('[{"Name": "lasting", "Mounts": []}]')
    assert [each["Name"] for each in engine.inspect("demo")] == ["lasting"]


def test_containers_that_are_all_removed_between_two_looks_are_none(answers, tmp_path):
    answers("[]", lists=f"if [ -e {tmp_path}/gone ]; then exit; fi; touch {tmp_path}/gone")
    assert engine.inspect("demo") == []


def test_a_podman_that_knows_none_of_them_is_an_error(answers):
    answers("[]")
    with pytest.raises(RuntimeError, match="none of lasting, leaving"):
        engine.inspect("demo")
