"""Ports of an embedded stack: reserved by one process at a time, and kept."""

import subprocess
import sys

from deploy.local.ports import choose_ports, keep_ports, release

NAMES = ("nats", "s3", "gateway")
CHOOSE = f"""
import sys
from deploy.local.ports import choose_ports
kept = dict(zip({NAMES!r}, map(int, sys.argv[1:])))
raise SystemExit(0 if choose_ports({NAMES!r}, kept) == kept else 3)
"""


def test_another_process_gets_a_port_once_it_was_released():
    kept = choose_ports(NAMES, {})
    command = [sys.executable, "-c", CHOOSE, *map(str, kept.values())]
    held = subprocess.run(command, timeout=60, check=False)
    for port in kept.values():
        release(port)
    released = subprocess.run(command, timeout=60, check=False)
    assert (held.returncode, released.returncode) == (3, 0)


def test_ports_that_a_stack_had_come_before_those_of_a_new_one():
    kept = choose_ports(NAMES, {})
    chosen = keep_ports(NAMES, kept)
    for port in chosen.values():
        release(port)
    assert chosen == kept
