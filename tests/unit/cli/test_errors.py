"""Errors with --json: one object with code, message and hint on standard error; exit codes stay as documented."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clients.cli.errors import EXIT_CODES, CommandError, Exit, asked_for_json
from contracts.facts import FACTS
from contracts.version import CONTRACTS
from tests.kit.command import run_command

ROOT = Path(__file__).resolve().parents[3]


def error_of(*arguments, **variables):
    code, out, err = run_command(variables, *arguments)
    assert out == ""
    return code, json.loads(err)["error"]


def test_a_refusal_is_an_object(tmp_path):
    code, error = error_of("status", "--state", str(tmp_path), "--json")
    assert code == error["exit"] == Exit.UNREACHABLE
    assert error["code"] == "unreachable"
    assert error["message"].startswith(f"there is no stack in {tmp_path}; start one with `slipway up`")


@pytest.mark.parametrize("arguments", [("frobnicate", "--json"), ("status", "--frob", "--json"), ("show", "--json")])
def test_a_command_line_that_cannot_be_parsed_is_an_object_as_well(arguments):
    code, error = error_of(*arguments)
    assert (code, error["code"], error["exit"]) == (2, "usage", 2)


def test_for_people_it_is_a_sentence(tmp_path):
    code, _, err = run_command({}, "status", "--state", str(tmp_path))
    assert code == 4
    assert err.startswith(f"slipway: there is no stack in {tmp_path}; start one with")


def test_an_unknown_command_still_shows_the_usage():
    code, _, err = run_command({}, "frobnicate")
    assert code == 2
    assert "No such command" in err


def test_every_exit_code_is_documented_and_keeps_its_number():
    numbers = {"OK": 0, "FAILED": 1, "USAGE": 2, "NOT_PROMOTED": 3, "UNREACHABLE": 4, "DIFFERENT": 5}
    assert {code.name: int(code) for code in Exit} == numbers
    assert all(f"{number} " in EXIT_CODES for number in numbers.values())


def test_a_refused_order_has_the_code_of_its_service():
    assert CommandError("x", name="stale_epoch").name == "stale_epoch"
    assert CommandError("x", Exit.USAGE).name == "usage"


def test_json_is_asked_for_by_an_option_only():
    assert asked_for_json(["status", "--json"])
    assert not asked_for_json(["ask", "bot", "--", "--json"])


def test_the_version_of_contracts_is_that_of_every_event():
    assert {name.rpartition(".")[2] for name in FACTS} == {CONTRACTS}


# -- completion -------------------------------------------------------------------------------------------------------


def complete(config, *words, shell="bash"):
    """Return what a shell is offered for the last of these words."""
    environment = {
        **os.environ,
        "XDG_CONFIG_HOME": str(config),
        "_SLIPWAY_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": " ".join(("slipway", *words)),
        "COMP_CWORD": str(len(words)),
        "_TYPER_COMPLETE_ARGS": " ".join(("slipway", *words)),
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    code = "import sys; sys.argv = ['slipway']; from clients.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split("\n")


def test_commands_are_completed_without_a_stack(tmp_path):
    assert "approve" in complete(tmp_path, "ap")
    assert complete(tmp_path, "show", "bot@")[0] == ""
