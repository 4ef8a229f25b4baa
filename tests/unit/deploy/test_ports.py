"""Ports of an embedded stack: a check leaves them to the process that is started after it."""

import subprocess
import sys

from clients.cli.doctor.gather import read_ports
from deploy.local.ports import choose_ports, keep_ports, release

NAMES = ("nats", "s3", "gateway")
CHOOSE = f"""
import sys
from deploy.local.ports import choose_ports
kept = dict(zip({NAMES!r}, map(int, sys.argv[1:])))
raise SystemExit(0 if choose_ports({NAMES!r}, kept) == kept else 3)
"""


def test_another_process_gets_the_ports_that_were_checked():
    kept = choose_ports(NAMES, {})
    command = [sys.executable, "-c", CHOOSE, *map(str, kept.values())]
    held = subprocess.run(command, timeout=60, check=False)
    ports = read_ports(NAMES, kept)
    checked = subprocess.run(command, timeout=60, check=False)
    assert (ports.free, ports.taken) == (3, {})
    assert (held.returncode, checked.returncode) == (3, 0)


def test_ports_that_a_stack_had_come_before_those_of_a_new_one():
    kept = choose_ports(NAMES, {})
    chosen = keep_ports(NAMES, kept)
    for port in chosen.values():
        release(port)
    assert chosen == kept
