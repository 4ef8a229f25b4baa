"""Commands of slipway on a real stack's connection."""

from testbed.attesters import attester_keys
from testbed.services import environment
from tests.kit.command import run_command


def slipway(log, settings, *arguments):
    """Run the command in this process: (status, what it printed, what it complained of)."""
    variables = {
        **environment(settings),
        "SLIPWAY_ATTESTERS": str(attester_keys(log.keys).listing),
    }
    return run_command(variables, *arguments)
