"""Fixtures of several files: a console with the fleet of `testbed.story`, and an administrator who is signed in."""

import pytest

from tests.unit.console.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("console"))
    world.fill()
    yield world
    world.close()


@pytest.fixture(scope="module")
def admin(world):
    return world.client("adam")
