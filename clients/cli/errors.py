"""Reporting of a command's error: a message and an exit code, or a JSON object on standard error with --json."""

import json
import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

JSON_OPTION = "--json"


class Exit(IntEnum):
    """Exit codes that scripts may rely on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_PROMOTED = 3
    UNREACHABLE = 4
    DIFFERENT = 5


EXIT_CODES = (
    "Exit codes: 0 done; 1 failed or refused; 2 wrong usage; 3 the release ended without promotion; "
    "4 the stack cannot be reached; 5 the installation differs from the files."
)
NAMES = {
    Exit.FAILED: "failed",
    Exit.USAGE: "usage",
    Exit.NOT_PROMOTED: "not_promoted",
    Exit.UNREACHABLE: "unreachable",
    Exit.DIFFERENT: "different",
}
"""The codes of errors without a code of a service, by exit code."""


class CommandError(Exception):
    """Ends the command with an error message and an exit code.

    Attributes:
        code: The exit code.
        name: The code with --json; a code of `contracts.codes` if a service refused an order.
        details: Further fields with --json, where the message is then its first line.
    """

    def __init__(
        self, sentence: str, code: Exit = Exit.FAILED, name: str = "", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(sentence)
        self.code = code
        self.details = details or {}
        self.name = name or NAMES[code]


def asked_for_json(arguments: list[str] | None = None) -> bool:
    """Return whether the command line has --json, even if it cannot be parsed."""
    given = sys.argv[1:] if arguments is None else arguments
    return JSON_OPTION in (given[: given.index("--")] if "--" in given else given)


def print_error(sentence: str, code: Exit, name: str = "", details: Mapping[str, Any] | None = None) -> None:
    """Print an error on standard error: a line, or with --json an object."""
    if not asked_for_json():
        print(f"slipway: {sentence}", file=sys.stderr, flush=True)
        return
    message = sentence.partition("\n")[0] if details else sentence
    about: dict[str, Any] = {"code": name or NAMES[code], "message": message, "exit": int(code)}
    about |= details or {}
    print(json.dumps({"error": about}, ensure_ascii=False), file=sys.stderr, flush=True)


def warn(sentence: str) -> None:
    """Print a warning on standard error: a line, or with --json an object."""
    line = json.dumps({"warning": sentence}, ensure_ascii=False) if asked_for_json() else f"slipway: {sentence}"
    print(line, file=sys.stderr, flush=True)
